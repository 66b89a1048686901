// What node's pg and its companions do, against DATABASE_URL. Prints "ok" when
// all of it was as it should be.
const assert = require('node:assert')
const { pipeline } = require('node:stream/promises')
const { Readable, Writable } = require('node:stream')
const { Client, Pool } = require('pg')
const Cursor = require('pg-cursor')
const QueryStream = require('pg-query-stream')
const copy = require('pg-copy-streams')

const connectionString = process.env.DATABASE_URL

async function connected(work) {
  const c = new Client({ connectionString })
  await c.connect()
  try {
    await work(c)
  } finally {
    await c.end()
  }
}

const collect = (chunks) => new Writable({ objectMode: true, write(chunk, _, done) { chunks.push(chunk); done() } })

async function main() {
  await connected(async (c) => {
    assert.equal((await c.query('select v from t where id = 7')).rows[0].v, 'row 7')
    assert.equal((await c.query('select v from t where id = $1', [8])).rows[0].v, 'row 8')
    for (const id of [1, 2, 3]) {
      const r = await c.query({ name: 'by-id', text: 'select v from t where id = $1', values: [id] })
      assert.equal(r.rows[0].v, 'row ' + id)
    }
    const answers = await Promise.all([1, 2, 3, 4].map((id) => c.query('select $1::int as id', [id])))
    assert.deepEqual(answers.map((r) => r.rows[0].id), [1, 2, 3, 4])
    assert.equal((await c.query('select 1 as a; select 2 as a')).length, 2)

    const cursor = c.query(new Cursor('select id from t order by id'))
    assert.equal((await cursor.read(10)).length, 10)
    assert.equal((await cursor.read(5))[0].id, 11)
    await cursor.close()

    const rows = []
    await pipeline(c.query(new QueryStream('select id from t order by id', [], { batchSize: 7 })), collect(rows))
    assert.equal(rows.length, 100)

    await c.query('begin')
    await pipeline(Readable.from(['500\ta\n', '501\tb\n']), c.query(copy.from('copy t from stdin')))
    const out = []
    await pipeline(c.query(copy.to('copy (select * from t where id >= 500) to stdout')), collect(out))
    assert.equal(Buffer.concat(out).toString(), '500\ta\n501\tb\n')
    await assert.rejects(c.query('drop table t'), { code: '42501' })
    await assert.rejects(c.query('select 1'), { code: '25P02' })
    await c.query('rollback')
    assert.equal((await c.query('select count(*)::int as n from t')).rows[0].n, 100)
  })

  await connected(async (listener) => {
    const heard = new Promise((resolve) => listener.on('notification', resolve))
    await listener.query('listen news')
    await connected((c) => c.query("select pg_notify('news', 'hello')"))
    assert.equal((await heard).payload, 'hello')
  })

  const pool = new Pool({ connectionString, max: 4 })
  const many = await Promise.all([...Array(40).keys()].map((i) => pool.query('select $1::int as i', [i])))
  assert.deepEqual(many.map((r) => r.rows[0].i), [...Array(40).keys()])
  await pool.end()

  const slow = new Client({ connectionString })
  await slow.connect()
  const query = new (require('pg').Query)('select pg_sleep(600)')
  const ended = new Promise((resolve) => query.on('error', resolve))
  slow.query(query)
  await connected(async (c) => {
    for (let n = 0; n === 0; ) {
      n = (await c.query("select count(*)::int as n from pg_stat_activity where query = 'select pg_sleep(600)' and state = 'active'")).rows[0].n
    }
  })
  new Client({ connectionString }).cancel(slow, query)
  assert.equal((await ended).code, '57014')
  await slow.end()
}

main().then(() => console.log('ok'), (err) => { console.error(err); process.exit(1) })
