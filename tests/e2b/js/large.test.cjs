// What streams has no size. The whole size of the promise is for a run of its own:
// ATOLL_E2B_LARGE_MB=2048 scripts/with-atoll.sh scripts/e2b.sh javascript new js/large.test.cjs
const assert = require('node:assert/strict')
const { createHash } = require('node:crypto')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')
const { test } = require('node:test')
const { make } = require('./helper.cjs')

const MEGABYTE = 1 << 20
const LARGE = Number(process.env.ATOLL_E2B_LARGE_MB ?? 256)

test('large files stream both ways', { timeout: 1_700_000 }, async (t) => {
  const { files } = await make(t, { timeoutMs: 1_800_000 })
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'atoll-large-'))
  t.after(() => fs.rmSync(folder, { recursive: true }))
  const local = path.join(folder, 'large')
  const file = fs.openSync(local, 'w')
  const wanted = createHash('sha256')
  for (let number = 0; number < LARGE; number++) {
    const piece = Buffer.alloc(MEGABYTE, `${number} `)
    wanted.update(piece)
    fs.writeSync(file, piece)
  }
  fs.closeSync(file)
  const began = Date.now()
  await files.write('large', await fs.openAsBlob(local), { requestTimeoutMs: 1_600_000 })
  const up = Date.now()
  assert.equal((await files.getInfo('large')).size, LARGE * MEGABYTE)
  const found = createHash('sha256')
  for await (const piece of await files.read('large', { format: 'stream', requestTimeoutMs: 1_600_000 })) found.update(piece)
  assert.equal(found.digest('hex'), wanted.digest('hex'))
  console.log(`${LARGE} MB: up in ${up - began} ms, down in ${Date.now() - up} ms`)
})
