// What the page shows: for each view its title, which filters it has, what it asks the
// server for, and how the answer becomes rows of tables.

import {Table} from './table.js';
import {Rates, perSecond} from './rates.js';

const KEPT = 15000; // ms that a backend is shown after it has gone

const when = (text) => new Date(text).toLocaleTimeString('en-GB');
const list = (values) => (values ?? []).join('\n');
const place = (f) => (f.addr.includes(':') ? `[${f.addr}]` : f.addr) + `:${f.port}/${f.protocol}`;
const nameOf = (s) => `${s.namespace}/${s.name}`;
const serviceLink = (s) => '#/service/' + nameOf(s);
const count = (n, one, more) => `${n.toLocaleString('en')} ${n === 1 ? one : more}`;
const isReached = (n) => n.self || n.reach === 'ok';

// readiness is that of the first place that counts all backends, not only this node's.
function readiness(fronts) {
  const of = (fronts ?? []).filter((f) => f.policy !== 'Local');
  const f = (of.length ? of : fronts ?? [])[0];
  return f ? {ready: f.ready, total: f.total, text: `${f.ready}/${f.total}`} : {text: ''};
}

function isReady(fronts) {
  const {ready, total, text} = readiness(fronts);
  if (text === '') {
    return '';
  }
  return total > 0 && ready === 0 ? 'bad' : ready < total || total === 0 ? 'warn' : 'good';
}

// ---- Overview

const problems = () => new Table('Problems', [
  {head: 'What', text: (p) => p.what, state: () => 'bad'},
  {head: 'Since', text: (p) => when(p.since)},
  {head: 'What to know', text: (p) => p.text},
], (p) => p.what + p.text, 'No problem is known.');

const packets = () => new Table('Packets dropped, refused, or left to the kernel, by reason', [
  {head: 'Kind', text: (c) => c.kind},
  {head: 'Reason', text: (c) => c.reason},
  {head: 'Per second', text: (c) => c.rate, number: true},
  {head: 'In all', text: (c) => c.count.toLocaleString('en'), number: true},
], (c) => c.kind + '/' + c.reason, 'None.');

const pools = () => new Table('Address pools', [
  {head: 'Prefix', text: (p) => p.prefix},
  {head: 'Used', text: (p) => `${p.used}`, number: true},
  {head: 'Released a moment ago', text: (p) => `${p.cooling}`, number: true},
  {head: 'Size', text: (p) => p.size, number: true},
], (p) => p.prefix, 'None.');

const tables = () => new Table('Kernel tables', [
  {head: 'Table', text: (t) => t.name},
  {head: 'Rows', text: (t) => t.rows.toLocaleString('en'), number: true},
  {head: 'Repairs', text: (t) => `${t.repairs}`, number: true},
  {head: 'Error', text: (t) => t.error ?? '', state: (t) => t.error ? 'bad' : ''},
], (t) => t.name, 'None.');

function overview() {
  const rates = new Rates();
  const shown = [problems(), packets(), pools(), tables()];
  return {
    title: 'Overview',
    shown,
    show(_, status, at) {
      shown[0].show(status.problems ?? []);
      shown[1].show((status.counters ?? []).map((c) => {
        return {...c, rate: perSecond(rates.add(c.kind + '/' + c.reason, c.count, at))};
      }));
      shown[2].show(status.pools ?? []);
      shown[3].show(status.tables ?? []);
      return `Weft ${status.version}, up since ${new Date(status.since).toLocaleString('en-GB')}; ` +
        `${count(status.pods, 'pod', 'pods')}, ${count(status.peers, 'other node', 'other nodes')}, ` +
        `pod MTU ${status.mtu}, overlay ${status.overlay}, source ${status.source}` +
        (status.synced ? '.' : ' (not read yet).');
    },
  };
}

// ---- Services

// withRates adds the flows a second to each.
function withRates(services, rates, at) {
  rates.keep(services.map((s) => nameOf(s) + s.type));
  return services.map((s) => ({...s, rate: perSecond(rates.add(nameOf(s) + s.type, s.begun ?? 0, at))}));
}

function services() {
  const rates = new Rates();
  const shown = [new Table('Services and host ports', [
    {head: 'Service', text: nameOf, href: serviceLink},
    {head: 'Type', text: (s) => s.type},
    {head: 'Served at', text: (s) => list((s.fronts ?? []).map(place))},
    {head: 'Ready', text: (s) => readiness(s.fronts).text, state: (s) => isReady(s.fronts)},
    {head: 'Flows a second', text: (s) => s.rate, number: true},
    {head: 'Problem', text: (s) => list(s.problems), state: (s) => s.problems?.length ? 'bad' : ''},
  ], (s) => nameOf(s) + s.type, 'No Service fits.')];
  return {
    title: 'Services',
    shown,
    filter: {type: true, troubled: true},
    ask: (q) => ['services', q],
    show(data, _, at) {
      shown[0].show(withRates(data.services, rates, at));
      return `${count(data.found, 'fits', 'fit')}. Flows that began are counted on this node.`;
    },
  };
}

// ---- Addresses of load balancers

const addressColumns = [
  {head: 'Address', text: (f) => f.addr},
  {head: 'Service', text: (f) => nameOf(f.service), href: (f) => serviceLink(f.service)},
  {head: 'Ports', text: (f) => f.ports.join('\n')},
  {head: 'Ready', text: (f) => readiness([f]).text, state: (f) => isReady([f])},
  {head: 'Policy', text: (f) => f.policy ?? ''},
  {head: 'Announced by', text: (f) => f.announcer ?? ''},
  {head: 'Flows a second', text: (f) => f.service.rate, number: true},
  {head: 'Problem', text: (f) => list(f.service.problems), state: (f) => f.service.problems?.length ? 'bad' : ''},
];

// addresses is one row for each address of a load balancer; its ports are together.
function addressesOf(service) {
  const rows = new Map();
  for (const f of (service.fronts ?? []).filter((f) => f.kind === 'LB')) {
    const known = rows.get(f.addr);
    const port = `${f.port}/${f.protocol}`;
    if (known) {
      known.ports.push(port);
    } else {
      rows.set(f.addr, {...f, service, ports: [port]});
    }
  }
  return rows.size ? [...rows.values()] : [{addr: 'none yet', service, ports: []}];
}

function addresses() {
  const rates = new Rates();
  const shown = [new Table('Addresses of LoadBalancer Services', addressColumns,
    (f) => f.addr + ' ' + nameOf(f.service), 'There is no LoadBalancer Service that fits.')];
  return {
    title: 'Addresses',
    shown,
    filter: {troubled: true},
    ask: (q) => ['services', {...q, type: 'LoadBalancer'}],
    show(data, _, at) {
      shown[0].show(withRates(data.services, rates, at).flatMap(addressesOf));
      return count(data.found, 'LoadBalancer Service fits.', 'LoadBalancer Services fit.');
    },
  };
}

// ---- One Service

const backendState = {ready: 'good', terminating: 'warn', lost: 'bad', gone: 'bad', 'not ready': 'bad'};

function service(name, say) {
  const rates = new Rates();
  const known = new Map(); // backends by key, as they were seen last; those that have gone, too
  let first = true, asked = '';
  const key = (b) => `${b.addr}/${b.protocol}/${b.port}`;
  const backends = new Table('Backends', [
    {head: 'Backend', text: (b) => b.addr},
    {head: 'State', text: (b) => b.state, state: (b) => backendState[b.state] ?? ''},
    {head: 'Port', text: (b) => `${b.port}/${b.protocol}`},
    {head: 'Flows', text: (b) => b.state === 'gone' ? '' : b.flows.toLocaleString('en'), number: true},
    {head: 'Pod', text: (b) => b.pod ?? ''},
    {head: 'Node', text: (b) => b.node ?? ''},
    {head: 'Zone', text: (b) => b.zone ?? ''},
  ], key, 'It has no backend.');
  const fronts = new Table('Served at', [
    {head: 'Place', text: place},
    {head: 'Kind', text: (f) => f.kind},
    {head: 'Ready', text: (f) => readiness([f]).text, state: (f) => isReady([f])},
    {head: 'Policy', text: (f) => f.policy ?? ''},
    {head: 'Backends\' port', text: (f) => f.target ?? ''},
  ], (f) => f.kind + place(f), 'It is not served on this node.');

  // remember notes what changed, and returns the backends with those that have gone. On
  // one of several pages a backend that is not there may only have moved.
  function remember(now, whole, at) {
    const there = new Set(now.map(key));
    for (const b of now) {
      const was = known.get(key(b));
      if (!first && was?.state !== b.state) {
        say(`${b.pod ?? ''} ${b.addr} ${b.state}`);
      }
      known.set(key(b), {...b, changed: first ? -Infinity : was?.state === b.state ? was.changed : at});
    }
    for (const [k, b] of known) {
      if (there.has(k)) {
        continue;
      }
      if (!whole || b.state === 'gone' && at - b.changed > KEPT) {
        known.delete(k);
      } else if (b.state !== 'gone') {
        say(`${b.pod ?? ''} ${b.addr} gone`);
        known.set(k, {...b, state: 'gone', changed: at});
      }
    }
    first = false;
    return [...known.values()].sort((a, b) => key(a) < key(b) ? -1 : 1);
  }
  const mark = (at) => (b) => b.state === 'gone' ? 'gone' : at - b.changed < 2000 ? 'fresh' : '';

  return {
    title: name,
    shown: [backends, fronts],
    filter: {},
    ask(q) {
      const other = JSON.stringify(q);
      if (other !== asked) { // what is not among these has not gone
        known.clear();
        [first, asked] = [true, other];
      }
      return ['service', {...q, name}];
    },
    show(data, _, at) {
      const rows = remember(data.backends, data.found <= data.backends.length, at);
      backends.show(rows, mark(at));
      fronts.show(data.services.flatMap((s) => s.fronts ?? []));
      const rated = withRates(data.services, rates, at);
      const states = Object.entries(data.states).map(([state, n]) => `${n} ${state}`).join(', ');
      const trouble = data.services.flatMap((s) => s.problems ?? []).join('; ');
      return `${rated.map((s) => s.type).join(' and ')}; backends: ${states || 'none'}; ` +
        `flows a second on this node: ${rated.map((s) => s.rate).join(' and ')}` + (trouble ? `; problem: ${trouble}` : '') + '.';
    },
  };
}

// ---- Nodes

function nodes() {
  const shown = [new Table('Nodes, as this one reaches them', [
    {head: 'Node', text: (n) => n.name + (n.self ? ' (this)' : '')},
    {head: 'Reach', text: (n) => n.self ? 'this node' : n.reach, state: (n) => isReached(n) ? 'good' : n.reach === 'unknown' ? 'warn' : 'bad'},
    {head: 'Round trip', text: (n) => n.rtt ?? '', number: true},
    {head: 'Address', text: (n) => n.addr},
    {head: 'Pods\' prefixes', text: (n) => list(n.podCIDRs)},
    {head: 'Via', text: (n) => n.via},
    {head: 'Device', text: (n) => n.link},
    {head: 'MTU', text: (n) => n.mtu ? `${n.mtu}` : '', number: true},
  ], (n) => n.name, 'No node fits.')];
  return {
    title: 'Nodes',
    shown,
    filter: {troubled: true},
    ask: (q) => ['nodes', q],
    show(data) {
      shown[0].show(data.nodes);
      return count(data.found, 'node fits.', 'nodes fit.');
    },
  };
}

// ---- Drops

function end(e) {
  const at = (e.addr?.includes(':') && e.port ? `[${e.addr}]` : e.addr || '?') + (e.port ? `:${e.port}` : '');
  return e.pod ? `${e.pod} ${at}` : e.node ? `node ${e.node} ${at}` : at;
}

function drops() {
  const shown = [new Table('Packets dropped lately, the newest first', [
    {head: 'Time', text: (d) => when(d.time)},
    {head: 'Reason', text: (d) => d.reason},
    {head: 'Packet', text: (d) => `${d.protocol} ${d.detail ?? ''}`},
    {head: 'From', text: (d) => end(d.src)},
    {head: 'To', text: (d) => end(d.dst) + (d.backend ? ` (${end(d.backend)})` : '')},
    {head: 'At', text: (d) => d.device},
    {head: 'Why', text: (d) => d.why ?? ''},
  ], (d) => d.key, 'None.')];
  return {
    title: 'Drops',
    shown,
    ask: (q) => ['drops', q],
    show(data) {
      const same = new Map(); // how many of one moment and way
      const keyed = data.drops.toReversed().map((d) => {
        const key = `${d.time} ${end(d.src)} ${end(d.dst)}`;
        same.set(key, (same.get(key) ?? 0) + 1);
        return {...d, key: `${key} ${same.get(key)}`};
      });
      shown[0].show(keyed.reverse());
      return 'Of many a second only some are recorded; the overview counts all.';
    },
  };
}

// viewOf is the view that a path names: a new one, as what it remembers is its own.
export function viewOf(path, say) {
  if (path.startsWith('/service/')) {
    return service(path.slice('/service/'.length), say);
  }
  return ({'/services': services, '/addresses': addresses, '/nodes': nodes, '/drops': drops}[path] ?? overview)();
}
