"use strict";
// Shows one of the people in the data below in place of the person on the page.
if (document.forms.length) (() => {
  const find = (id) => document.getElementById(id);
  const { items, people } = JSON.parse(find("people-data").textContent);
  const [form, field, shown] = [document.forms[0], find("find-user"), find("shown")];
  const create = (tag, text, parts = {}) => Object.assign(document.createElement(tag), { textContent: text, ...parts });
  const nameItem = (index) => create("bdi", items[index][1] ?? items[index][0]);
  function createRow([index, because, reason]) {
    const [, , link, image] = items[index];
    const row = create("li"), note = create("small");
    const name = link ? create("a", "", { href: link, rel: "noopener noreferrer", target: "_blank" }) : create("span");
    name.append(nameItem(index));
    if (typeof because === "number") note.append("because of ", nameItem(because));
    else note.append(create("bdi", reason || because));
    row.append(name, " ", note);
    if (image && find("pictures").checked) row.prepend(create("img", "", { src: image, alt: "", loading: "lazy" }));
    return row;
  }
  let person = people[shown.dataset.first];
  function show() {
    find("person-name").textContent = person[0];
    shown.querySelector(".history ol").replaceChildren(...person[2].map(createRow));
    shown.querySelector(".listed ol").replaceChildren(...person[3].map(createRow));
  }
  function search() {
    const text = field.value.trim(), [users, known] = [people.map(([user]) => user), people.length];
    const user = users.find((id) => id.trim() === text) ?? users.find((id) => id.includes(text));
    shown.hidden = user === undefined;
    find("found").textContent = shown.hidden ? `${text} is not among the ${known} people on this page: batchrec show finds everybody.` : "";
    if (!shown.hidden) { person = people[users.indexOf(user)]; show(); }
  }
  find("users").append(...people.map(([user]) => create("option", "", { value: user })));
  form.hidden = false;
  form.addEventListener("input", (event) => (event.target === field ? search() : show()));
  form.addEventListener("submit", (event) => event.preventDefault());
  // What is folded would be missing on paper.
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((fold) => (fold.open = true)));
})();
