"use strict";
/* a click on a heading sorts the rows of its table; what has no value stays at the end */
function value(row, column, number) {
  const text = row.cells[column].textContent.trim();
  if (!number) return text === "-" ? "" : text;
  const found = text.replaceAll(",", "").replace("\u2212", "-").match(/[-+]?\d*\.?\d+(e[-+]?\d+)?/i);
  return found ? parseFloat(found[0]) : "";
}
function sort(table, column, head) {
  const number = head.classList.contains("number"), first = number ? "descending" : "ascending";
  const second = number ? "ascending" : "descending", order = head.ariaSort === first ? second : first;
  const sign = order === "ascending" ? 1 : -1, names = new Intl.Collator("en", { numeric: true });
  const compare = (a, b) => {
    const one = value(a, column, number), other = value(b, column, number);
    if (one === "" || other === "") return (one === "") - (other === "");
    return sign * (number ? one - other : names.compare(one, other));
  };
  for (const other of head.parentNode.cells) other.ariaSort = null;
  head.ariaSort = order;
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
}
for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(table, column, head));
    head.append(button);
  });
}
/* what is wider than its place says that it can be pushed */
const seen = new ResizeObserver((boxes) => {
  for (const { target } of boxes) target.classList.toggle("wide", target.scrollWidth > target.clientWidth + 1);
});
for (const box of document.querySelectorAll(".scroll")) seen.observe(box);
