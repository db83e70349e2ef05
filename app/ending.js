// The title of the browser's tab says how far the run is that is shown, and how it has ended. Who asks for it here is
// told so by the browser, too, for as long as this page is open.
const ACTIVE = ['queued', 'running'];
const plain = document.title;
let before = null, wanted = false;

function possible() {
  return 'Notification' in window && window.isSecureContext && Notification.permission !== 'denied';
}

function ended(now) {
  document.title = `${now.said} · ${plain}`;
  if (wanted && Notification.permission === 'granted') new Notification(`${now.name}: ${now.said}`, {tag: now.run});
}

function look() {
  const section = element.querySelector('section.status');
  if (!section) return;
  const now = {...section.dataset}, active = ACTIVE.includes(now.state), same = before?.run === now.run;
  if (active) document.title = `${now.percent} % · ${plain}`;
  else if (same && ACTIVE.includes(before.state)) ended(now);
  else if (!same) document.title = plain;
  before = now;
  const button = section.querySelector('.tell-end');
  button.hidden = !active || wanted || !possible();
  button.addEventListener('click', async () => {
    wanted = await Notification.requestPermission() === 'granted';
    button.hidden = wanted || !possible();
  });
}
watch('value', look);
look();
