// Enter opens the list of files, as Space does: asked for while the key goes down, Chromium's does not open.
if (!window.dsfedmedEnterOpens) {
  window.dsfedmedEnterOpens = true;
  document.addEventListener('keydown', (event) => {
    const plain = !event.ctrlKey && !event.metaKey && !event.altKey && !event.repeat;
    if (event.key !== 'Enter' || !plain || !event.target.matches?.('button.upload-container')) return;
    event.preventDefault();
    setTimeout(() => event.target.click());
  });
}
