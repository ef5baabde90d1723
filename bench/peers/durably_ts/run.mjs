// npm @coji/durably: W1 and W2, told and answering like the Python processes (bench/task.py). The harness runs a copy of
// this file beside the installed packages. Defaults but for: maxConcurrentRuns = the concurrency, polling every 10 ms in
// place of every second, a pool of up to 20 connections. SQLite through better-sqlite3, with WAL and synchronous = NORMAL:
// it is faster than libSQL, which is taken where it could not be built.

import { readFileSync } from 'node:fs'
import { createDurably, defineJob } from '@coji/durably'
import { z } from 'zod'

const task = JSON.parse(process.argv[2])
const total = task.jobs + task.warm_up
const steps = task.kind === 'w2' ? 5 : 0
const isPostgres = task.url.startsWith('postgresql:')

let begun = 0
let done = 0
let from = 0
let finish
const allDone = new Promise((resolve) => {
  finish = resolve
})
const isOver = () => from > 0 && performance.now() - from > task.seconds * 1000

const job = defineJob({
  name: 'bench',
  input: z.object({ number: z.number() }),
  output: z.object({ number: z.number() }),
  run: async (step, input) => {
    begun += 1
    if (begun === task.warm_up + 1) from = performance.now()
    for (let place = 0; place < steps; place++) {
      await step.run(`step-${place}`, async () => ({ number: place }))
    }
    done += 1
    if (done >= total) finish()
    return input
  },
})

async function open() {
  if (isPostgres) {
    const { default: pg } = await import('pg')
    const { PostgresDialect } = await import('kysely')
    const pool = new pg.Pool({ connectionString: task.url, max: 20 })
    return new PostgresDialect({ pool })
  }
  try {
    const { default: Database } = await import('better-sqlite3')
    const { SqliteDialect } = await import('kysely')
    const database = new Database(task.url)
    database.pragma('journal_mode = WAL')
    database.pragma('synchronous = NORMAL')
    return new SqliteDialect({ database })
  } catch {
    console.error('better-sqlite3 was not built: libSQL it is')
  }
  const { createClient } = await import('@libsql/client')
  const { LibsqlDialect } = await import('@libsql/kysely-libsql')
  const client = createClient({ url: `file:${task.url}` })
  await client.execute('PRAGMA journal_mode = WAL')
  await client.execute('PRAGMA synchronous = NORMAL')
  return new LibsqlDialect({ client })
}

const durably = createDurably({
  dialect: await open(),
  pollingIntervalMs: 10,
  maxConcurrentRuns: task.concurrency,
  jobs: { bench: job },
})
await durably.migrate()
for (let start = 0; start < total; start += 500) {
  const inputs = Array.from({ length: Math.min(500, total - start) }, (_, place) => ({ input: { number: start + place } }))
  await durably.jobs.bench.batchTrigger(inputs)
}
durably.start()
const watch = setInterval(() => isOver() && finish(), 50)
await allDone
clearInterval(watch)
const left = async () => (await durably.getRuns({ status: ['pending', 'leased'], limit: 1 })).length
while (!isOver() && (await left()) > 0) await new Promise((resolve) => setTimeout(resolve, 2))
const seconds = (performance.now() - from) / 1000
const jobs = Math.max(done - task.warm_up, 0)
const manifest = new URL('node_modules/@coji/durably/package.json', import.meta.url)
const { version } = JSON.parse(readFileSync(manifest, 'utf8'))
console.log(`RESULT ${JSON.stringify({ rate: (jobs * Math.max(steps, 1)) / seconds, jobs, seconds, version })}`)
process.exit(0)
