// The page's frame: which view is shown, what it is asked for, and that it stays up to date.
// The view, its filter and its page are the part of the address after #, so that they can
// be kept and gone back to.

import {make, set} from './table.js';
import {viewOf} from './views.js';

const EVERY = 500; // ms between two looks
const LIMIT = 50;  // rows of a page

const $ = (id) => document.getElementById(id);
const now = {path: null, query: new URLSearchParams(), view: null, found: 0};
let turn = 0; // of looking; a new one ends the former
let asking = null;
let timer = 0;

// ---- Asking

async function get(what, query) {
  const answer = await fetch(`api/${what}?` + new URLSearchParams(query), {signal: asking.signal});
  const value = await answer.json();
  if (!answer.ok) {
    throw new Error(value.error);
  }
  return value;
}

// look asks for what is on the screen, shows it, and looks again in a moment.
async function look() {
  const mine = ++turn;
  clearTimeout(timer);
  asking?.abort();
  asking = new AbortController();
  const daemon = $('daemon').value || 0;
  try {
    const ask = now.view.ask?.(queryOf());
    const [state, data] = await Promise.allSettled([
      get('state', {daemon}), ask ? get(ask[0], {...ask[1], daemon}) : undefined,
    ]);
    if (mine === turn) {
      show(state, data);
    }
  } finally {
    if (mine === turn && !document.hidden) {
      timer = setTimeout(look, EVERY);
    }
  }
}

// queryOf is what the filter and the page say.
function queryOf() {
  const q = {limit: LIMIT, offset: (pageOf() - 1) * LIMIT};
  for (const name of ['text', 'type', 'troubled']) {
    if (now.query.get(name)) {
      q[name] = now.query.get(name);
    }
  }
  return q;
}

const pageOf = () => Math.max(1, Number.parseInt(now.query.get('page') ?? '1', 10) || 1);

// ---- Showing

function show(state, data) {
  const at = performance.now();
  const status = state.value?.status;
  showDaemons(state.value?.daemons);
  const reasons = [state, data].filter((r) => r.status === 'rejected').map((r) => r.reason.message);
  const chosen = state.value?.daemons[$('daemon').value || 0];
  if (chosen?.error) {
    reasons.unshift(chosen.error);
  }
  trouble(reasons[0]);
  document.body.classList.toggle('stale', reasons.length > 0);
  if (data.status === 'fulfilled' && status) {
    set($('summary'), 'textContent', now.view.show(data.value, status, at));
    now.found = data.value?.found ?? 0;
  }
  if (status) {
    const wrong = status.problems?.length ?? 0;
    set($('node'), 'textContent', !status.ready ? 'not ready' : wrong ? `ready, ${wrong} problem${wrong > 1 ? 's' : ''}` : 'ready');
    set($('node'), 'className', 'state ' + (!status.ready ? 'bad' : wrong ? 'warn' : 'good'));
  } else {
    set($('node'), 'textContent', 'no answer');
    set($('node'), 'className', 'state bad');
  }
  showPages();
}

function showDaemons(daemons) {
  const select = $('daemon');
  daemons?.forEach((d, i) => {
    const option = select.options[i] ?? select.appendChild(make('option', {value: `${i}`}));
    set(option, 'textContent', d.name + (d.error ? ' (no answer)' : d.ready ? '' : ' (not ready)'));
  });
}

function trouble(text) {
  const element = $('trouble');
  set(element, 'textContent', text ? `What is shown may be old: ${text}` : '');
  element.hidden = !text;
}

function showPages() {
  const pages = Math.max(1, Math.ceil(now.found / LIMIT));
  $('pages').hidden = pages === 1 && pageOf() === 1;
  set($('place'), 'textContent', `Page ${pageOf()} of ${pages}`);
  $('back').disabled = pageOf() <= 1;
  $('forth').disabled = pageOf() >= pages;
}

// say has a screen reader say what changed.
let saying = [];
function say(text) {
  saying.push(text.trim());
  if (saying.length === 1) {
    setTimeout(() => {
      const more = saying.length - 3;
      $('said').textContent = saying.slice(0, 3).join('; ') + (more > 0 ? `; and ${more} more` : '');
      saying = [];
    }, 300);
  }
}

// ---- Where we are

// go takes up the address. Another view is begun anew, with the focus on its title.
function go() {
  const [path, query] = (location.hash.slice(1) || '/').split('?');
  const moved = path !== now.path;
  now.query = new URLSearchParams(query);
  if (moved) {
    const begun = now.path === null;
    Object.assign(now, {path, view: viewOf(path, say), found: 0});
    $('title').textContent = now.view.title;
    document.title = now.view.title + ' – Weft';
    $('summary').textContent = '';
    $('tables').replaceChildren(...now.view.shown.map((t) => t.element));
    $('filter').hidden = !now.view.filter;
    $('types').hidden = !now.view.filter?.type;
    $('troubles').hidden = !now.view.filter?.troubled;
    for (const a of document.querySelectorAll('header nav a')) {
      const here = a.hash === '#' + path || a.hash === '#/services' && path.startsWith('/service/');
      here ? a.setAttribute('aria-current', 'page') : a.removeAttribute('aria-current');
    }
    if (!begun) {
      $('title').focus();
    }
  }
  for (const name of ['text', 'type']) {
    if (document.activeElement !== $(name)) {
      $(name).value = now.query.get(name) ?? '';
    }
  }
  $('troubled').checked = now.query.has('troubled');
  look();
}

// to changes the address without a step to go back to: a filter is typed letter by letter.
function to(query) {
  history.replaceState(null, '', `#${now.path}` + (query.size ? `?${query}` : ''));
  go();
}

function filter() {
  const query = new URLSearchParams();
  if ($('text').value.trim()) {
    query.set('text', $('text').value.trim());
  }
  if ($('type').value && now.view.filter.type) {
    query.set('type', $('type').value);
  }
  if ($('troubled').checked) {
    query.set('troubled', 'yes');
  }
  to(query);
}

function turnPage(by) {
  const query = new URLSearchParams(now.query);
  query.set('page', `${pageOf() + by}`);
  to(query);
}

$('filter').addEventListener('submit', (e) => e.preventDefault());
$('filter').addEventListener('input', filter);
$('back').addEventListener('click', () => turnPage(-1));
$('forth').addEventListener('click', () => turnPage(1));
$('daemon').addEventListener('change', () => {
  now.path = null; // what the view remembers is of another node
  go();
});
document.querySelector('.skip').addEventListener('click', (e) => {
  e.preventDefault();
  $('main').focus();
});
document.addEventListener('visibilitychange', () => document.hidden ? clearTimeout(timer) : look());
window.addEventListener('hashchange', go);
go();
