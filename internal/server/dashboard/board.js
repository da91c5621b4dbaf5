'use strict'
const base = location.origin + location.pathname.replace(/\/dashboard$/, '')
const at = id => document.getElementById(id)
const most = {topics: 100, readers: 50, state: 20, events: 20, kept: 1000, names: 100000} // rows, and storages that are kept, or counted

// Texts

const number = n => n.toLocaleString('en')
const clock = time => new Date(time).toLocaleTimeString([], {hour12: false})
const moment = time => {
  const d = new Date(time)
  return d.toDateString() === new Date().toDateString() ? clock(d) : d.toLocaleDateString('sv')
}
const age = time => {
  const minutes = Math.max(0, Math.floor((Date.now() - new Date(time)) / 60000))
  return minutes < 120 ? minutes + ' min' : minutes < 2880 ? Math.floor(minutes / 60) + ' h' : Math.floor(minutes / 1440) + ' days'
}
const who = c => (c.subject ? c.subject + ' at ' + c.address : c.address) + (board.nodes.size > 1 ? ' on ' + c.node : '')
const say = (id, text) => { if (at(id).textContent !== text) at(id).textContent = text }

// A position is a number in Crockford's base 32.
const positionOf = cursor => {
  let n = 0
  for (const c of cursor.split('.')[0]) n = n * 32 + '0123456789ABCDEFGHJKMNPQRSTVWXYZ'.indexOf(c)
  return n
}

// Streams

// follow keeps an EventSource of path open. on has a function for each type of event. told is
// called with 'live', 'lost' and the time since when, 'away' and which other server is, or 'refused'
// and the reason.
function follow(path, on, told) {
  let source, retry, ended = false, lost = 0, away = '', heard = Date.now()
  let suspect = false // a request has failed since the stream was opened
  function open() {
    source = new EventSource(base + path)
    source.onopen = () => {
      heard = Date.now()
      suspect = false
    }
    for (const name in on) {
      source.addEventListener(name, e => {
        heard = Date.now()
        on[name](e)
      })
    }
    source.addEventListener('live', () => {
      lost = 0
      told('live')
    })
    source.addEventListener('away', e => { away = JSON.parse(e.data).detail }) // and then the stream ends
    source.onerror = lose
  }
  function reopen() {
    source.close()
    clearTimeout(retry)
    if (!ended) open()
  }
  async function lose() {
    if (away) {
      lost = 0 // the server answers
      told('away', away)
    } else {
      lost ||= Date.now()
      told('lost', lost)
    }
    away = ''
    if (source.readyState !== EventSource.CLOSED) return // it reconnects
    // An EventSource does not say why it was refused; a request does.
    const asked = new AbortController()
    try {
      const answer = await fetch(base + path + '?until=now', {headers: {Accept: 'text/event-stream'}, signal: asked.signal})
      if (ended) return
      if (answer.status === 401) return location.reload() // for the login
      if (answer.status < 500 && !answer.ok && answer.status !== 429) return told('refused', (await answer.json()).detail)
    } catch {
    } finally {
      asked.abort()
    }
    if (!ended) retry = setTimeout(reopen, 2000)
  }
  // A server that hangs closes nothing. Its heartbeats are no events, so a page cannot hear them. A
  // stream that was opened since, after whatever loss, is left alone: its state may take a while.
  const probe = setInterval(async () => {
    if (!suspect && Date.now() - heard < 20000 || source.readyState !== EventSource.OPEN) return
    const asked = source
    try {
      await fetch(base + '/healthz', {cache: 'no-store', signal: AbortSignal.timeout(4000)})
      if (ended || asked !== source) return
      heard = Date.now()
      if (suspect) reopen()
    } catch {
      if (ended || asked !== source) return
      suspect = true
      lost ||= heard
      told('lost', lost)
    }
  }, 5000)
  open()
  return () => {
    ended = true
    clearInterval(probe)
    clearTimeout(retry)
    source.close()
  }
}

const lostText = since => Date.now() - since < 3000 ? 'Connection lost. Trying again…' :
  'No server at ' + location.host + ' since ' + clock(since) + '. Trying again…'

// Tables

// fill shows rows, each with a key and cells, in a table. A row of the same key stays the same
// element, and none moves while one has the focus.
function fill(body, rows) {
  const old = new Map([...body.rows].map(tr => [tr.dataset.key, tr]))
  if (body.contains(document.activeElement)) {
    const wanted = new Map(rows.map(row => [row.key, row]))
    const stay = [...old.keys()].filter(key => wanted.has(key)).map(key => wanted.get(key))
    rows = stay.concat(rows.filter(row => !old.has(row.key)))
  }
  rows.forEach((row, i) => {
    let tr = old.get(row.key)
    if (!tr) {
      tr = document.createElement('tr')
      tr.dataset.key = row.key
    }
    old.delete(row.key)
    if (tr !== body.rows[i]) body.insertBefore(tr, body.rows[i] || null)
    tr.classList.toggle('chosen', !!row.chosen)
    if (row.version !== tr.version) {
      tr.classList.toggle('fresh', !!row.fresh)
      tr.version = row.version
    }
    row.cells.forEach((cell, j) => setCell(tr.cells[j] || tr.insertCell(), cell))
  })
  for (const tr of old.values()) tr.remove()
}

// setCell shows a cell: its class, its lines, the topic to which the first one leads, its title. All text
// is text: a topic may be any.
function setCell(td, cell) {
  const lines = cell.lines.filter(line => line !== '')
  const shown = JSON.stringify([cell.link, cell.title, ...lines])
  if (td.shown === shown) return
  td.shown = shown
  td.className = cell.kind || ''
  td.title = cell.title || ''
  if (cell.link && td.firstChild?.hash === undefined) td.replaceChildren(document.createElement('a'))
  lines.forEach((line, i) => {
    let to = td.childNodes[i]
    if (!to) td.append(to = document.createElement('div'))
    if (i > 0) to.className = 'dim'
    to.textContent = line
  })
  while (td.childNodes.length > lines.length) td.lastChild.remove()
  if (cell.link) td.firstChild.href = '#' + encodeURIComponent(cell.link)
}

const count = n => ({kind: 'n', lines: [number(n)]})
const text = (lines, title) => ({kind: 'text', lines, title})
const since = time => ({kind: 't', lines: [moment(time)], title: time})

function fillReaders(id, conns, keep) {
  const rows = [...conns.values()].filter(keep).sort((a, b) => b.lag - a.lag || (a.since < b.since ? 1 : -1))
  fill(at(id + '-rows'), rows.slice(0, most.readers).map(c => ({
    key: c.node + ' ' + c.id,
    cells: [count(c.lag), since(c.since), text([who(c) + (c.behind ? ', reading history' : ''), c.topics.join(', ')])],
  })))
  sayMore(id + 's-more', rows.length, most.readers, 'No readers.')
}

function sayMore(id, n, shown, none) {
  say(id, n === 0 ? none : n > shown ? 'and ' + number(n - shown) + ' more' : '')
}

// draw calls fn soon, once for all calls until then.
function drawer(fn) {
  let waiting = false
  return () => {
    if (waiting) return
    waiting = true
    setTimeout(() => {
      waiting = false
      fn()
    }, 150)
  }
}

// The board

// What the page shows, and what comes to take its place: a state that is not complete.
const nothing = () => ({nodes: new Map(), conns: new Map(), topics: new Map()})
let board = nothing(), coming = null, live = false
let flow = [] // for each second of the last minute: how many connections were opened and closed
const began = performance.now()
let heads = new Map() // positions of each log in the last seconds

const keyOf = c => c.node + ' ' + c.id

function noteFlow(key) {
  const second = Math.floor(Date.now() / 1000)
  if (flow.at(-1)?.second !== second) flow.push({second, opened: 0, closed: 0})
  flow.at(-1)[key]++
}

// noteHeads notes the newest position of each log: servers of a board may have one or several.
function noteHeads() {
  const now = performance.now()
  const newest = new Map()
  for (const n of board.nodes.values()) newest.set(n.log, Math.max(newest.get(n.log) || 0, positionOf(n.head)))
  for (const [log, head] of newest) {
    const known = heads.get(log) || [], last = known.at(-1)
    if (last && last.head === head) continue
    if (last && now - last.at > 7500) known.push({at: now - 5000, head: last.head}) // it is read every five seconds
    known.push({at: now, head})
    heads.set(log, known.filter((h, i) => now - h.at < 16000 || i >= known.length - 2))
  }
}

// appended returns the events per second, undefined as long as that is not known.
function appended() {
  const now = performance.now()
  if (now - began < 7500) return undefined
  let rate = 0
  for (const known of heads.values()) {
    const first = known[0], last = known.at(-1)
    if (known.length > 1 && now - last.at < 7500) rate += (last.head - first.head) / (last.at - first.at) * 1000
  }
  return rate
}

const drawBoard = drawer(() => {
  const conns = [...board.conns.values()]
  say('count', number(conns.length))
  flow = flow.filter(f => f.second > Date.now() / 1000 - 60)
  const sum = key => number(flow.reduce((n, f) => n + f[key], 0))
  say('flow', sum('opened') + ' came, ' + sum('closed') + ' left in the last minute')
  const nodes = [...board.nodes.values()]
  const logs = new Set(nodes.map(n => n.log))
  const several = logs.size > 1
  say('log-name', several ? number(logs.size) + ' logs' : 'log')
  say('log', several ? '' : [...logs].join())
  say('head-name', several ? 'to ' + number(logs.size) + ' logs' : 'head')
  say('head', several ? '' : nodes.reduce((a, n) => n.head > a ? n.head : a, '').split('.')[0])
  const rate = appended()
  say('rate', rate === undefined ? '–' : (rate > 0 && rate < 10 ? rate.toFixed(1) : number(Math.round(rate))) + '/s')
  const slowest = conns.reduce((a, c) => c.lag > (a?.lag || 0) ? c : a, null)
  say('lag', slowest ? number(slowest.lag) + ' behind' : conns.length ? '0 behind' : '–')
  say('slowest', slowest ? who(slowest) : '')
  say('servers-name', nodes.length === 1 ? 'Up' : 'Servers')
  say('uptime', nodes.length === 1 ? age(nodes[0].since) : number(nodes.length))
  say('version', nodes.length === 1 ? 'version ' + nodes[0].version : 'on this board')
  at('servers').hidden = nodes.length < 2
  if (nodes.length > 1) {
    nodes.sort((a, b) => a.node < b.node ? -1 : 1)
    fill(at('server-rows'), nodes.map(n => ({
      key: n.node,
      cells: [count(conns.filter(c => c.node === n.node).length), since(n.since), text([n.node, 'log ' + n.log + ' at ' + n.head.split('.')[0], 'version ' + n.version])],
    })))
  }

  const filter = at('filter').value.trim().toLowerCase()
  const has = s => s.toLowerCase().includes(filter)
  const topics = [...board.topics.values()].filter(t => has(t.topic))
    .sort((a, b) => b.readers - a.readers || (a.topic < b.topic ? -1 : 1))
  fill(at('topic-rows'), topics.slice(0, most.topics).map(t => ({
    key: t.topic, chosen: t.topic === room?.topic,
    cells: [count(t.readers), count(t.connections), {kind: 'text', lines: [t.topic], link: t.topic}],
  })))
  sayMore('topics-more', topics.length, most.topics, filter ? 'No topic has this in its name.' : 'Nobody reads anything.')
  fillReaders('reader', board.conns, c => has(who(c)) || c.topics.some(has))
  document.title = number(conns.length) + (conns.length === 1 ? ' reader' : ' readers') + ' – rstream'
})

function change(fn) {
  return e => {
    fn(coming || board, JSON.parse(e.data))
    if (!coming) drawBoard()
  }
}

const boardEvents = {
  state: e => {
    coming = nothing()
    for (const n of JSON.parse(e.data).nodes) coming.nodes.set(n.node, n)
  },
  opened: change((b, c) => {
    b.conns.set(keyOf(c), c)
    if (!coming) noteFlow('opened')
  }),
  closed: change((b, c) => {
    b.conns.delete(keyOf(c))
    if (!coming) noteFlow('closed')
  }),
  lag: change((b, c) => {
    const known = b.conns.get(keyOf(c))
    if (known) Object.assign(known, {lag: c.lag, behind: c.behind})
  }),
  node: change((b, n) => {
    b.nodes.set(n.node, n)
    if (!coming) noteHeads()
  }),
  left: change((b, {node}) => b.nodes.delete(node)),
  topics: change((b, {all, topics}) => {
    if (all) b.topics.clear()
    for (const t of topics) {
      if (t.connections > 0) b.topics.set(t.topic, t)
      else b.topics.delete(t.topic)
    }
  }),
  live: () => {
    if (coming) board = coming
    coming = null
    noteHeads()
    drawBoard()
  },
}

function tellBoard(how, more) {
  live = how === 'live'
  at('status').className = live ? 'live' : 'lost'
  document.body.classList.toggle('stale', !live)
  say('status', live ? 'Live' : how === 'lost' ? lostText(more) : more)
}

// A room

let room = null

const storageOf = ev => ev.user + '/' + ev.path

// readEvent parses an event. Its value stays as it was written: a number may be one that JavaScript
// cannot hold. It is the last member, and no text before it has a quote that is not escaped.
function readEvent(e) {
  const ev = JSON.parse(e.data)
  const from = e.data.indexOf(',"value":')
  ev.text = from < 0 ? '' : e.data.slice(from + 9, -1)
  return ev
}

function openRoom(topic) {
  closeRoom()
  // Beyond what is kept, only names are: they make the number of storages.
  const own = room = {topic, state: new Map(), more: new Set(), over: false, events: [], number: 0, readers: new Map(), coming: null}
  say('room-said', 'Connecting…')
  at('topic').value = topic
  at('close').hidden = false
  say('room-title', topic)
  if (topic.split('/').some(part => part === '.' || part === '..')) { // a browser would ask for another page
    say('room-said', 'A path has no part . or ..')
    own.stop = () => {}
    return
  }
  const take = e => {
    const ev = readEvent(e), inState = e.lastEventId === ''
    const storage = storageOf(ev)
    const into = own.coming || own, {state: kept, more} = into
    if (ev.type === 'DEL') {
      kept.delete(storage)
      more.delete(storage)
    } else if (kept.has(storage) || kept.size < most.kept) {
      more.delete(storage)
      kept.set(storage, {...ev, fresh: !inState})
    } else if (more.size < most.names) more.add(storage)
    else into.over = into.over || !more.has(storage)
    if (inState) return
    own.events.unshift(ev)
    own.number++
    own.events.length = Math.min(own.events.length, most.events)
    drawRoom()
  }
  const readers = fn => e => {
    fn(JSON.parse(e.data))
    drawRoom()
  }
  own.stop = follow('/api/room/' + topic.split('/').map(encodeURIComponent).join('/'), {
    state: () => { own.coming = {state: new Map(), more: new Set(), over: false} },
    PUT: take,
    DEL: take,
    readers: readers(({connections}) => { own.readers = new Map(connections.map(c => [keyOf(c), c])) }),
    opened: readers(c => own.readers.set(keyOf(c), c)),
    closed: readers(c => own.readers.delete(keyOf(c))),
    lag: readers(c => {
      const known = own.readers.get(keyOf(c))
      if (known) Object.assign(known, {lag: c.lag, behind: c.behind})
    }),
    live: () => {
      if (own.coming) Object.assign(own, own.coming)
      own.coming = null
      at('room-body').hidden = false
      drawRoom()
    },
  }, (how, more) => say('room-said', how === 'live' ? 'Live' : how === 'lost' ? lostText(more) :
    how === 'away' ? more[0].toUpperCase() + more.slice(1) + '. Trying again…' : more))
}

const drawRoom = drawer(() => {
  if (!room) return
  const state = [...room.state].sort(([a], [b]) => a < b ? -1 : 1)
  const n = state.length + room.more.size
  say('state-title', 'State: ' + (room.over ? 'at least ' : '') + number(n) + (n === 1 ? ' storage' : ' storages'))
  const shown = room.all ? most.kept : most.state
  fill(at('state-rows'), state.slice(0, shown).map(([storage, ev]) => ({
    key: storage, version: ev.id, fresh: ev.fresh,
    cells: [since(ev.time), {...text([storage, ev.text.slice(0, 400)], ev.text.slice(0, 2000)), link: storage + '$'}],
  })))
  sayMore('state-more', n, Math.min(shown, state.length), 'No values.')
  at('state-all').hidden = n <= shown || room.all
  fill(at('event-rows'), room.events.map(ev => ({
    key: ev.id, version: ev.id, fresh: true,
    cells: [since(ev.time), {kind: 't', lines: [ev.type], title: 'key ' + ev.key}, text([storageOf(ev), ev.text.slice(0, 400)], ev.text.slice(0, 2000))],
  })))
  say('events-title', 'Changes: ' + number(room.number) + ' since ' + clock(room.since ||= Date.now()))
  say('events-none', room.number ? '' : 'None yet.')
  fillReaders('room-reader', room.readers, () => true)
})

function closeRoom() {
  if (room) room.stop()
  room = null
  for (const id of ['state-rows', 'event-rows', 'room-reader-rows']) at(id).replaceChildren()
  at('room-body').hidden = true
  at('close').hidden = true
  say('room-title', 'Room')
  say('room-said', 'A room is the state of a topic, its changes and its readers.')
}

// The address has the room, so that a link leads to it.
function goToRoom() {
  let topic = ''
  try { topic = decodeURIComponent(location.hash.slice(1)) } catch {}
  if (topic === (room?.topic || '')) return
  if (topic) openRoom(topic)
  else closeRoom()
  drawBoard()
}

// The page

at('open').addEventListener('submit', e => {
  e.preventDefault()
  location.hash = encodeURIComponent(at('topic').value.trim())
})
at('close').addEventListener('click', () => { location.hash = '' })
at('state-all').addEventListener('click', () => {
  room.all = true
  drawRoom()
})
at('filter').addEventListener('input', drawBoard)
at('logout')?.addEventListener('click', async () => {
  at('logout-said').textContent = ''
  let problem = 'the server cannot be reached'
  try {
    const answer = await fetch(base + '/logout', {method: 'POST'})
    if (answer.status === 204) return location.reload()
    problem = 'the answer is ' + answer.status
    problem = (await answer.json()).detail || problem
  } catch {}
  at('logout-said').textContent = 'Not logged out: ' + problem
})
addEventListener('hashchange', () => {
  goToRoom()
  at('room-title').focus()
})

// A page that nobody sees does not look: a browser opens few connections to a server, and a
// board costs nothing while nobody looks.
let stop = null, leaving
function look() {
  clearTimeout(leaving)
  if (document.hidden) leaving = setTimeout(leave, 10000) // it was opened in the background
  if (stop) return
  stop = follow('/api/connections', boardEvents, tellBoard)
  goToRoom()
}
function leave() {
  if (stop) stop()
  stop = coming = null
  if (room) room.stop()
  room = null
  say('status', 'Paused')
  at('status').className = ''
}
document.addEventListener('visibilitychange', () => {
  if (document.hidden) leaving = setTimeout(leave, 10000)
  else look()
})
// A browser keeps a page that was left, with its streams, and runs none of its timers.
addEventListener('pagehide', leave)
addEventListener('pageshow', look)
setInterval(() => { if (stop && live) drawBoard() }, 5000) // the rates
// The login may have come here by an address that is not to be in a link, and may have to again.
if (location.href.split('#')[0].endsWith('?')) history.replaceState(null, '', base + '/dashboard' + location.hash)
try { sessionStorage.removeItem('again') } catch {} // the browser may keep nothing
look()
