// The plot of samples has no events of Gradio's: what is clicked and drawn there goes on through hidden text boxes,
// which the page checks as it does every text.
() => {
  const MOST_LETTERS = 3900, FEWEST = 8;  // of the text; of a ring's corners that are thinned
  const pass = (name, words) => {
    const box = document.querySelector(`#${name} textarea, #${name} input`);
    if (!box || box.value === words) return;
    box.value = words;
    box.dispatchEvent(new Event('input', {bubbles: true}));
  };
  const short = (value) => Number(Number(value).toPrecision(6));
  const rings = (shape) => {
    if (shape.type === 'rect') {
      const {x0, x1, y0, y1} = shape;
      return [[x0, y0, x1, y0, x1, y1, x0, y1].map(short)];
    }
    return shape.path.split('M').slice(1).map((ring) => ring.replace('Z', '').split(/[L,]/).map(short));
  };
  const thinner = (ring) => ring.length <= 2 * FEWEST ? ring : ring.filter((_, at) => at % 4 < 2);
  const written = (selections) => {
    let shapes = selections.filter((one) => one.type === 'rect' || one.path).map(rings), words, before;
    do {
      before = words;
      words = shapes.length ? JSON.stringify({shapes}) : '';
      shapes = shapes.map((shape) => shape.map(thinner));
    } while (words.length > MOST_LETTERS && words !== before);
    return words;
  };
  let drawing = false, ending;  // plotly also tells of outlines that a new figure brings along, which nobody has drawn
  document.addEventListener('pointerup', () => {
    ending = setTimeout(() => { drawing = false; }, 300);
  });
  const listen = () => {
    const plot = document.querySelector('#scatter .js-plotly-plot');
    if (!plot || !plot.on || plot.dataset.listening) return;
    plot.dataset.listening = 'yes';
    plot.on('plotly_click', (event) => {
      if (event.points[0].customdata !== undefined) pass('picked', event.points[0].customdata);
    });
    plot.addEventListener('pointerdown', (event) => {
      clearTimeout(ending);
      drawing = event.target.classList.contains('drag');
    });
    plot.on('plotly_selected', (event) => {
      if (drawing && event?.selections) pass('region', written(event.selections));
    });
    plot.on('plotly_deselect', () => { if (drawing) pass('region', ''); });
    plot.on('plotly_afterplot', () => {  // a figure that comes anew is dragged as the one before
      const mode = document.querySelector('#region-mode input:checked')?.value;
      if (mode) plot.querySelector(`[data-attr=dragmode][data-val=${mode}]:not(.active)`)?.click();
    });
    plot.on('plotly_relayout', (changed) => {  // the plot's own buttons and ours say the same
      const other = document.querySelector(`#region-mode input[value="${changed.dragmode}"]:not(:checked)`);
      if (other) other.click();
    });
  };
  new MutationObserver(listen).observe(document.body, {childList: true, subtree: true});
}
