"use strict";
(() => {
  const inputs = [...document.querySelectorAll("input[data-id]")];
  const save = document.getElementById("save");
  const told = document.getElementById("told");
  const quoted = (text) => /[",\r\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
  const answered = () => inputs.filter((input) => input.value.trim() !== "");

  function show() {
    for (const input of inputs) {
      const figure = input.closest("figure");
      figure.classList.toggle("done", input.value.trim() !== "");
      for (const button of figure.querySelectorAll("button[data-label]"))
        button.setAttribute("aria-pressed", String(button.dataset.label === input.value.trim()));
    }
    const count = answered().length;
    told.textContent = `${count} answered`;
    save.disabled = count === 0;
  }

  for (const button of document.querySelectorAll("button[data-label]"))
    button.addEventListener("click", () => {
      const input = button.closest("figure").querySelector("input[data-id]");
      input.value = input.value === button.dataset.label ? "" : button.dataset.label;
      show();
    });
  for (const input of inputs) input.addEventListener("input", show);

  save.addEventListener("click", () => {
    const rows = [["id", "path", "label", "chosen"]];
    for (const input of answered())
      rows.push([input.dataset.id, input.dataset.path, input.value.trim(), input.dataset.chosen]);
    const text = rows.map((row) => row.map(quoted).join(",") + "\r\n").join("");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = "answers.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  });
  show();
})();
