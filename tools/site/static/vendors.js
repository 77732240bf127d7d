// The search of the catalogue: it shows the vendors whose section has all words of the field, at the top
// of the page. Without this script, the page shows all vendors.
const sections = [...document.querySelectorAll("main h2")].map((heading) => {
	const elements = [heading];
	for (let next = heading.nextElementSibling; next && !next.matches("h2, footer"); next = next.nextElementSibling) {
		elements.push(next);
	}
	return { elements, text: elements.map((element) => element.textContent).join(" ").toLowerCase() };
});

const form = document.createElement("form");
form.className = "search";
form.role = "search";
form.innerHTML = `<label for="search">Search for a vendor</label>
<input id="search" type="search" autocomplete="off" spellcheck="false" placeholder="a name, a grant type or a field">
<output for="search"></output>`;
document.querySelector("h1").after(form);
const introduction = [];
for (let next = form.nextElementSibling; next !== sections[0].elements[0]; next = next.nextElementSibling) {
	introduction.push(next);
}
form.addEventListener("submit", (event) => event.preventDefault());

function search() {
	const words = form.elements.search.value.toLowerCase().split(/\s+/).filter(Boolean);
	introduction.forEach((element) => { element.hidden = words.length > 0; });
	let shown = 0;
	for (const { elements, text } of sections) {
		const matches = words.every((word) => text.includes(word));
		shown += matches;
		elements.forEach((element) => { element.hidden = !matches; });
	}
	form.querySelector("output").value = `${shown} of ${sections.length} vendors`;
}

form.elements.search.addEventListener("input", search);
search(); // a browser that goes back fills the field
