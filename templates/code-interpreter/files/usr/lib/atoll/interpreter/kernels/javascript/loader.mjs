// Finds a module as an import in a file at `parent` would; else as a `require` there would, which knows the system's
// packages as well. (Kept apart because only modules can ask for the first.)
import { createRequire, isBuiltin } from 'node:module'
import { pathToFileURL } from 'node:url'

export async function resolved(name, parent) {
  try {
    return await import.meta.resolve(name, parent)
  } catch (problem) {
    try {
      const found = createRequire(parent).resolve(name)
      return isBuiltin(found) ? found : pathToFileURL(found).href
    } catch {
      throw problem
    }
  }
}
