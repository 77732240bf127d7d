// The search of the catalogue: it shows the vendors whose section has all words of the field, at the top
// of the page. Without this script, the page shows all vendors.
function section(first) {
	const elements = [];
	for (let next = first; next && !(next !== first && next.matches("h2, footer")); next = next.nextElementSibling) {
		elements.push(next);
	}
	return { elements, text: elements.map((element) => element.textContent).join(" ").toLowerCase() };
}

const list = document.querySelector("main .sections");
const introduction = section(list.nextElementSibling);
const sections = [...document.querySelectorAll("main h2")].map(section);

const form = document.createElement("form");
form.className = "search";
form.role = "search";
form.innerHTML = `<label for="search">Search for a vendor</label>
<input id="search" type="search" autocomplete="off" spellcheck="false" placeholder="a name, a grant type or a field">
<output for="search"></output>`;
document.querySelector("h1").after(form);
form.addEventListener("submit", (event) => event.preventDefault());

function search() {
	const words = form.elements.search.value.toLowerCase().split(/\s+/).filter(Boolean);
	const matches = ({ text }) => words.every((word) => text.includes(word));
	const show = ({ elements }, visible) => elements.forEach((element) => { element.hidden = !visible; });
	let shown = 0;
	for (const vendor of sections) {
		shown += matches(vendor);
		show(vendor, matches(vendor));
	}
	// The introduction names what the catalogue does not have, and says what to do then.
	show(introduction, shown === 0 || matches(introduction));
	list.hidden = words.length > 0;
	form.querySelector("output").value = `${shown} of ${sections.length} vendors`;
}

form.elements.search.addEventListener("input", search);
search(); // a browser that goes back fills the field

// A link to a section that the search hides ends the search.
addEventListener("hashchange", () => {
	const target = document.querySelector(":target");
	if (target && !target.checkVisibility()) {
		form.reset();
		search();
		target.scrollIntoView();
	}
});
