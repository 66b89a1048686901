// Real clients of WebSocket and server-sent events, against a server of the
// same makers: what passes directly passes through the gateway.
//
//     node services.js server          prints its port and serves
//     node services.js client URL      says "ok" in the end; TOKEN is its token
'use strict'
const assert = require('node:assert')
const crypto = require('node:crypto')
const http = require('node:http')
const { WebSocket, WebSocketServer } = require('ws')
const { EventSource } = require('eventsource')

function serve() {
  const server = http.createServer((req, res) => {
    res.writeHead(200, { 'Content-Type': 'text/event-stream' })
    let n = Number(req.headers['last-event-id'] || 0)
    const timer = setInterval(() => {
      n++
      res.write(`id: ${n}\nevent: tick\ndata: {"n":${n}}\n\n`)
      if (n === 5 || n === 10) { // the client comes again, from there
        clearInterval(timer)
        res.end()
      }
    }, 20)
    req.on('close', () => clearInterval(timer))
  })
  const sockets = new WebSocketServer({ server, perMessageDeflate: true, handleProtocols: () => 'chat' })
  sockets.on('connection', (ws) => {
    ws.on('message', (data, binary) => ws.send(data, { binary }))
    ws.on('close', (code) => process.stderr.write(`closed with ${code}\n`))
  })
  server.listen(0, '127.0.0.1', () => console.log(server.address().port))
}

function webSocket(url) {
  return new Promise((resolve, reject) => {
    const ws = new WebSocket(url.replace('http', 'ws') + '/ws', ['chat'], { headers: { Authorization: 'Bearer ' + process.env.TOKEN } })
    const messages = ['a text', Buffer.from([0, 1, 2, 255]), crypto.randomBytes(3 << 20), 'ünïcode'.repeat(1000), '']
    let at = 0
    let pongs = 0
    ws.on('error', reject)
    ws.on('open', () => {
      assert.strictEqual(ws.protocol, 'chat')
      ws.ping('are you there')
      messages.forEach((m) => ws.send(m))
    })
    ws.on('pong', () => pongs++)
    ws.on('message', (data, binary) => {
      const want = messages[at++]
      assert.strictEqual(binary, typeof want !== 'string')
      assert.ok(Buffer.from(want).equals(data), `message ${at} came back another`)
      if (at === messages.length) ws.close(4321, 'enough')
    })
    ws.on('close', (code) => {
      try {
        assert.strictEqual(code, 4321)
        assert.strictEqual(at, messages.length)
        assert.strictEqual(pongs, 1)
        resolve()
      } catch (e) { reject(e) }
    })
  })
}

function events(url) {
  return new Promise((resolve, reject) => {
    const es = new EventSource(url + '/events', {
      fetch: (to, init) => fetch(to, { ...init, headers: { ...init.headers, Authorization: 'Bearer ' + process.env.TOKEN } }),
    })
    let last = 0
    es.addEventListener('tick', (e) => {
      last++
      if (JSON.parse(e.data).n !== last) reject(new Error(`event ${e.data} after ${last - 1}`))
      if (last === 12) { // over two reconnects
        es.close()
        resolve()
      }
    })
    es.addEventListener('error', (e) => { if (e.code) reject(new Error(`events: ${e.code} ${e.message}`)) })
    setTimeout(() => reject(new Error(`${last} events`)), 30000).unref()
  })
}

const [what, url] = process.argv.slice(2)
if (what === 'server') {
  serve()
} else {
  webSocket(url).then(() => events(url)).then(() => { console.log('ok'); process.exit(0) }, (e) => { console.error(e); process.exit(1) })
}
