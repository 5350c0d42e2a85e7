// What the tests with the JavaScript SDK share. The environment says which Atoll: scripts/e2b.sh sets it.
require('./calls.cjs')
const { Sandbox } = require('e2b')

/** A sandbox that is gone after the test `t`. */
async function make(t, ...args) {
  const options = args.length > 0 && typeof args.at(-1) === 'object' ? args.pop() : {}
  const sandbox = await Sandbox.create(...args, { timeoutMs: 120_000, ...options })
  t.after(() => sandbox.kill())
  return sandbox
}

async function until(what, check, seconds = 30) {
  const deadline = Date.now() + seconds * 1000
  while (!(await check())) {
    if (Date.now() > deadline) throw new Error(`waited ${seconds} s in vain for ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

async function all(paginator) {
  const items = []
  while (paginator.hasNext) items.push(...(await paginator.nextItems()))
  return items
}

/** A text that no other test has. */
function unique(prefix) {
  return `${prefix}-${Date.now().toString(36)}${Math.random().toString(36).slice(2)}`
}

module.exports = { all, make, unique, until }
