// Filters the list of cases. Without scripts the page shows them all.
const form = document.querySelector('.filter');
const cases = [...document.querySelectorAll('details.case')];
const shown = document.querySelector('#shown');

function apply() {
  const words = form.text.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const item of cases) {
    const data = item.dataset;
    const hit = ['verdict', 'tier', 'op'].every(key => !form[key].value || form[key].value === data[key]) &&
      words.every(word => data.text.includes(word));
    item.hidden = !hit;
    count += hit;
  }
  shown.textContent = `${count} of ${cases.length} shown`;
}

form.hidden = false;
form.addEventListener('input', apply);
form.addEventListener('reset', () => setTimeout(apply));
form.addEventListener('submit', event => event.preventDefault());
// Numbers in the tables and "all results" links set the filter and go to the list.
for (const button of document.querySelectorAll('button[data-filter]'))
  button.addEventListener('click', () => {
    form.reset();
    for (const [key, value] of new URLSearchParams(button.dataset.filter)) form[key].value = value;
    apply();
    document.querySelector('#cases').scrollIntoView();
    form.text.focus({preventScroll: true});
  });
// A link to a pitfall opens its text.
const openPitfall = () => document.querySelector(`tr[id="${location.hash.slice(1)}"] details`)?.setAttribute('open', '');
addEventListener('hashchange', openPitfall);
openPitfall();
apply();
