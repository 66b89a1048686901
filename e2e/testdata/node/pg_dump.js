// Runs the pg_dump that PGlite's authors compile to WebAssembly against any
// server: node pg_dump.js FOLDER HOST PORT CONNINFO FILE [OPTION...]. FOLDER is
// the package's. It has callbacks instead of a socket, and expects the answer
// as soon as it has asked; a thread of its own holds the connection meanwhile.
const { Worker, MessageChannel, isMainThread, receiveMessageOnPort, workerData } = require('node:worker_threads')
const fs = require('node:fs')
const net = require('node:net')

// connection passes on what comes from either side; null is the end.
function connection({ port, bell, host, number }) {
  const socket = net.connect(Number(number), host)
  const pass = (chunk) => {
    port.postMessage(chunk)
    Atomics.add(bell, 0, 1)
    Atomics.notify(bell, 0)
  }
  socket.on('data', (chunk) => pass(new Uint8Array(chunk)))
  socket.on('error', () => {}) // and is closed
  socket.on('close', () => pass(null))
  port.on('message', (chunk) => socket.write(chunk))
}

// Messages cuts a stream into messages: all have a length, and all but a
// client's first have a type before it.
class Messages {
  constructor(first) {
    this.rest = Buffer.alloc(0)
    this.type = first
  }

  // last is the last message of what has come, if that ends with a whole one.
  last(chunk) {
    this.rest = Buffer.concat([this.rest, chunk])
    let last
    for (;;) {
      const head = this.type === 'startup' ? 0 : 1
      if (this.rest.length < head + 4) break
      const size = head + this.rest.readUInt32BE(head)
      if (this.rest.length < size) break
      last = { type: head ? String.fromCharCode(this.rest[0]) : this.type, body: this.rest.subarray(head + 4, size) }
      this.type = undefined
      this.rest = this.rest.subarray(size)
    }
    return this.rest.length ? undefined : last
  }
}

// Server is what the package takes for a PGlite.
class Server {
  constructor(host, number) {
    const { port1, port2 } = new MessageChannel()
    this.port = port1
    this.bell = new Int32Array(new SharedArrayBuffer(4))
    this.asked = new Messages('startup')
    this.answered = new Messages()
    const workerData = { port: port2, bell: this.bell, host, number }
    new Worker(__filename, { workerData, transferList: [port2] })
  }

  receive() {
    for (;;) {
      const seen = Atomics.load(this.bell, 0)
      const received = receiveMessageOnPort(this.port)
      if (received) return received.message
      Atomics.wait(this.bell, 0, seen)
    }
  }

  execProtocolRawStream(chunk, { onRawData }) {
    const copy = new Uint8Array(chunk)
    this.port.postMessage(copy)
    const asked = this.asked.last(copy)
    if (!asked || !['startup', 'p', 'Q', 'S', 'F'].includes(asked.type)) return
    for (let ended = false; !ended;) {
      const answer = this.receive()
      if (answer === null) return
      onRawData(answer)
      const last = this.answered.last(answer)
      // The server is ready, or waits for a step of the login.
      ended = last && (last.type === 'Z' || last.type === 'R' && ![0, 12].includes(last.body.readUInt32BE(0)))
    }
  }

  // What the package asks besides, of a PGlite that goes on living.
  async query() { return { rows: [{ search_path: '' }] } }
  async exec() {}
}

async function main([folder, host, number, conninfo, file, ...options]) {
  globalThis.File ??= require('node:buffer').File // Node 18 has it, but not there
  const { pgDump } = require(folder + '/dist/pg_dump.cjs')
  const dump = await pgDump({ pg: new Server(host, number), args: [...options, '-d', conninfo] })
  fs.writeFileSync(file, await dump.text())
}

if (!isMainThread) {
  connection(workerData)
} else {
  main(process.argv.slice(2)).then(() => process.exit(0), (err) => { console.error(err.message); process.exit(1) })
}
