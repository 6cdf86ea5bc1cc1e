// A table that is changed in place, so that focus, selection and what a screen reader is
// at stay where they are.
//
// A column is {head, text(row)} and, if it has it, number: true, href(row), state(row):
// good, warn or bad. A row is known by key(row). All that is shown is set as text.

export class Table {
  constructor(caption, columns, key, none) {
    this.columns = columns;
    this.key = key;
    this.none = none;
    this.rows = new Map();
    this.element = make('div', {className: 'scroll', tabIndex: 0, role: 'region'});
    this.element.setAttribute('aria-label', caption);
    const table = this.element.appendChild(make('table'));
    table.createCaption().textContent = caption;
    const head = table.createTHead().insertRow();
    for (const c of columns) {
      head.append(make('th', {scope: 'col', textContent: c.head, className: c.number ? 'number' : ''}));
    }
    this.body = table.createTBody();
  }

  // show makes the table hold these rows, in this order. mark(row) is a row's class.
  show(rows, mark = () => '') {
    const wanted = new Map(rows.map((row) => [this.key(row), row]));
    for (const [key, element] of this.rows) {
      if (!wanted.has(key)) {
        element.remove();
        this.rows.delete(key);
      }
    }
    let at = this.body.firstChild;
    for (const [key, row] of wanted) {
      let element = this.rows.get(key);
      if (!element) {
        element = this.make(key);
        this.rows.set(key, element);
      }
      this.fill(element, row);
      set(element, 'className', mark(row));
      if (element === at) {
        at = at.nextSibling;
      } else {
        this.body.insertBefore(element, at);
      }
    }
    this.nothing(wanted.size === 0);
  }

  nothing(is) {
    if (is && !this.empty) {
      this.empty = this.body.insertRow();
      const cell = this.empty.insertCell();
      cell.colSpan = this.columns.length;
      cell.textContent = this.none;
    } else if (!is && this.empty) {
      this.empty.remove();
      this.empty = null;
    }
  }

  make(key) {
    const row = make('tr');
    row.dataset.key = key;
    for (const c of this.columns) {
      const cell = row.insertCell();
      cell.className = c.number ? 'number' : '';
      if (c.href) {
        cell.append(make('a'));
      } else if (c.state) {
        cell.append(make('span'));
      }
    }
    return row;
  }

  fill(element, row) {
    this.columns.forEach((c, i) => {
      const inner = element.cells[i].firstElementChild ?? element.cells[i];
      set(inner, 'textContent', c.text(row) || '–');
      if (c.href && inner.getAttribute('href') !== c.href(row)) {
        inner.setAttribute('href', c.href(row));
      }
      if (c.state) {
        const state = c.state(row);
        set(inner, 'className', state ? 'state ' + state : '');
      }
    });
  }
}

export function make(tag, properties = {}) {
  return Object.assign(document.createElement(tag), properties);
}

// set changes a property only if it is another one: what is written anew is read out anew.
export function set(element, property, value) {
  if (element[property] !== value) {
    element[property] = value;
  }
}
