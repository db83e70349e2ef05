// Shows those lines of the run's log that have what is typed, or warnings and errors among them; new ones as they come.
const search = () => document.getElementById('log-search');

function apply() {
  const [words, only, told] = ['[type=search]', '[type=checkbox]', 'output'].map((name) => search()?.querySelector(name));
  if (!words) return;
  const wanted = words.value.trim().toLowerCase(), kinds = only.checked ? ['warning', 'error'] : [];
  const lines = [...element.querySelectorAll('.log > div')];
  for (const line of lines) {
    const isMeant = !kinds.length || kinds.some((name) => line.classList.contains(name));
    line.hidden = !isMeant || !line.textContent.toLowerCase().includes(wanted);
  }
  const found = lines.filter((line) => !line.hidden).length;
  told.textContent = wanted || kinds.length ? told.dataset.found.replace('{found}', found).replace('{all}', lines.length) : '';
}
document.addEventListener('input', (event) => { if (search()?.contains(event.target)) apply(); });
watch('value', apply);
apply();
