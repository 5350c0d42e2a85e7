// Writes src/lib/api/schema.d.ts from the OpenAPI document of the Atoll at ATOLL_URL: the shapes, and the routes that
// there are, so that a changed route breaks the build and not the page. With --check it only says whether the file is
// what it would write.
import { readFile, writeFile } from 'node:fs/promises';
import openapi, { astToString } from 'openapi-typescript';

const server = process.env.ATOLL_URL ?? 'http://127.0.0.1:7420';
const target = new URL('../src/lib/api/schema.d.ts', import.meta.url);

const answer = await fetch(new URL('/openapi.json', server)).catch((error) => {
	console.error(
		`${server} can't be reached (${error.cause?.code ?? error.message}): start Atoll, or set ATOLL_URL`
	);
	process.exit(1);
});
const { paths, ...document } = await answer.json();
const routes = Object.entries(paths)
	.flatMap(([path, item]) => Object.keys(item).map((method) => `${method.toUpperCase()} ${path}`))
	.filter((route) => /^(GET|POST|PUT|PATCH|DELETE) /.test(route))
	.sort();
const shapes = await openapi({ ...document, paths: {} }, { defaultNonNullable: false });
const types = [
	'// Made by `npm run types` from /openapi.json. Do not edit.\n',
	'/** Every route, by method and path. */',
	`export type Route =\n${routes.map((route) => `    | ${JSON.stringify(route)}`).join('\n')};\n`,
	astToString(shapes)
].join('\n');
if (!process.argv.includes('--check')) {
	await writeFile(target, types);
} else if ((await readFile(target, 'utf8')) !== types) {
	console.error(
		'src/lib/api/schema.d.ts is not what /openapi.json says: run `npm run types`, and mend what breaks'
	);
	process.exit(1);
}
