// Makes a cell fit for evaluation: types away, and imports turned into calls, since only modules may have them.
'use strict'
const acorn = require('acorn')

const SYNTAX = { ecmaVersion: 'latest', sourceType: 'module', allowReturnOutsideFunction: true }

/** The cell's code as the console takes it. Code that can't be parsed stays as it is: evaluating it says why. */
function translated(code, typescript) {
  const source = object(code, typescript) ?? (typescript ? withoutTypes(code) : code)
  if (!/\bimport\b/.test(source)) return source
  let tree
  try {
    tree = acorn.parse(source, SYNTAX)
  } catch {
    return source
  }
  const changes = []
  for (const node of tree.body) {
    if (node.type === 'ImportDeclaration') changes.push([node.start, node.end, declaration(node)])
  }
  walk(tree, (node) => {
    // `import(x)` becomes `__import(x)`.
    if (node.type === 'ImportExpression') changes.push([node.start, node.start + 'import'.length, '__import'])
  })
  let result = source
  for (const [start, end, text] of changes.sort((a, b) => b[0] - a[0])) {
    result = result.slice(0, start) + text + result.slice(end)
  }
  return result
}

/** What begins with a brace is an object, as in a console, if it can be one; a block otherwise. */
function object(code, typescript) {
  if (!/^\s*\{/.test(code) || /;\s*$/.test(code)) return undefined
  try {
    const source = typescript ? withoutTypes(`(${code.trim()}\n)`) : `(${code.trim()}\n)`
    acorn.parse(source, SYNTAX)
    return source
  } catch {
    return undefined
  }
}

/** `import a, { b as c } from 'd'` as a declaration of the same names. */
function declaration(node) {
  const load = `await __import(${node.source.raw})`
  const parts = node.specifiers
  const whole = parts.find((part) => part.type === 'ImportNamespaceSpecifier')
  const named = parts.filter((part) => part !== whole).map((part) => {
    const imported = part.type === 'ImportDefaultSpecifier' ? 'default' : part.imported.name ?? part.imported.raw
    return `${imported}: ${part.local.name}`
  })
  if (whole && named.length) return `const ${whole.local.name} = ${load}, { ${named.join(', ')} } = ${whole.local.name};`
  if (whole) return `const ${whole.local.name} = ${load};`
  return named.length ? `const { ${named.join(', ')} } = ${load};` : `${load};`
}

function walk(node, visit) {
  if (typeof node.type === 'string') visit(node)
  for (const value of Object.values(node)) {
    if (value && typeof value === 'object') {
      if (Array.isArray(value)) value.forEach((item) => item && walk(item, visit))
      else walk(value, visit)
    }
  }
}

function withoutTypes(code) {
  const ts = require('typescript')
  const options = {
    module: ts.ModuleKind.ESNext,
    target: ts.ScriptTarget.ES2022,
    preserveValueImports: true,
    importsNotUsedAsValues: ts.ImportsNotUsedAsValues?.Preserve,
  }
  const output = ts.transpileModule(code, { compilerOptions: options, reportDiagnostics: true })
  const problem = output.diagnostics?.[0]
  if (problem) throw new SyntaxError(ts.flattenDiagnosticMessageText(problem.messageText, '\n'))
  // A cell of declarations alone gets an empty export, which marks a module.
  return output.outputText.replace(/^export \{\};\s*$/m, '')
}

module.exports = { translated }
