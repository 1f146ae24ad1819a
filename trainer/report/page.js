const slider = document.getElementById("when"), caption = document.getElementById("caption");
const pictures = document.querySelectorAll("#samples img");
function show() {
  pictures.forEach((picture, index) => { picture.hidden = index !== slider.valueAsNumber; });
  caption.textContent = pictures[slider.valueAsNumber].dataset.caption;
  slider.setAttribute("aria-valuetext", caption.textContent);
}
if (slider) {
  slider.addEventListener("input", show);
  show();
}
