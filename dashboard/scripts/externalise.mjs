// After the build: moves inline scripts of the page into files of their own, so that the Content-Security-Policy can
// say `script-src 'self'` and nothing more. Fails when anything inline is left.
import { createHash } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

const build = new URL('../build/', import.meta.url).pathname;
const folder = '_app/immutable/start';
const page = join(build, 'index.html');

let html = await readFile(page, 'utf8');
const inline = /<script(?![^>]*\bsrc=)([^>]*)>([\s\S]*?)<\/script>/g;
for (const [whole, attributes, code] of html.matchAll(inline)) {
	const name = `${folder}/${createHash('sha256').update(code).digest('hex').slice(0, 10)}.js`;
	await mkdir(join(build, folder), { recursive: true });
	await writeFile(join(build, name), code.trim() + '\n');
	html = html.replace(whole, () => `<script${attributes} src="/${name}"></script>`);
}
const left = html.match(inline) ?? html.match(/<style[\s>]|\sstyle=|\son[a-z]+=/);
if (left) {
	console.error(`build/index.html still holds something inline: ${left[0].slice(0, 80)}`);
	process.exit(1);
}
await writeFile(page, html);
