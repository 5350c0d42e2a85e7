// For those who work on the dashboard: with ATOLL_DASHBOARD=build the tests see the files of dashboard/build instead of
// those inside the binary, which then need not be built anew. A server in front of Atoll answers with them under the
// headers that Atoll has for its own page, and passes everything else on: the API, its streams and its sockets.
import { existsSync, readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, request, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { extname, join, normalize } from 'node:path';
import { gzipSync } from 'node:zlib';

const build = new URL('../build/', import.meta.url).pathname;
export const fresh = process.env.ATOLL_DASHBOARD === 'build';

const TYPES: Record<string, string> = {
	'.html': 'text/html; charset=utf-8',
	'.js': 'text/javascript; charset=utf-8',
	'.css': 'text/css; charset=utf-8',
	'.json': 'application/json',
	'.svg': 'image/svg+xml',
	'.png': 'image/png',
	'.woff2': 'font/woff2',
	'.webmanifest': 'application/manifest+json'
};
const OF_THE_SERVER = /^\/(v1|e2b|docs|metrics|healthz|readyz|openapi\.json)(\/|\?|$)/;

/** The file for an address: a page of the application has no extension. */
function fileFor(path: string): string | undefined {
	const file = join(build, normalize(path));
	if (extname(path) !== '') return file.startsWith(build) && existsSync(file) ? file : undefined;
	return join(build, 'index.html');
}

/** Begins to answer in front of the Atoll at `home`. */
export async function inFrontOf(home: string): Promise<{ url: string; close: () => void }> {
	if (!existsSync(join(build, 'index.html'))) throw new Error('build the dashboard first: npm run build');
	const { hostname, port } = new URL(home);
	const page = await fetch(home);
	const policy = page.headers.get('content-security-policy') ?? '';
	const there = (asked: IncomingMessage) => ({
		hostname,
		port,
		path: asked.url,
		method: asked.method,
		// With the `host` that the browser has asked: what the server compares its origin with.
		headers: asked.headers
	});
	const server: Server = createServer((asked, answer) => {
		const path = new URL(asked.url ?? '/', home).pathname;
		// Another name than this machine's is a port of a sandbox.
		const ours = asked.headers.host?.startsWith('127.0.0.1') ?? false;
		if (ours && asked.method === 'GET' && !OF_THE_SERVER.test(asked.url ?? '/')) {
			const file = fileFor(path);
			if (!file) {
				answer.writeHead(404, { 'content-type': 'application/json' });
				answer.end('{"error":{"code":"not_found","message":"no such page"}}');
				return;
			}
			const type = TYPES[extname(file)] ?? 'application/octet-stream';
			answer.writeHead(200, {
				'content-type': type,
				'content-encoding': 'gzip',
				'cache-control': path.startsWith('/_app/immutable/')
					? 'public, max-age=31536000, immutable'
					: 'no-cache',
				...(type.startsWith('text/html') ? { 'content-security-policy': policy } : {})
			});
			answer.end(gzipSync(readFileSync(file)));
			return;
		}
		const onward = request(there(asked), (got) => {
			answer.writeHead(got.statusCode ?? 502, got.headers);
			answer.flushHeaders();
			got.pipe(answer);
			got.on('error', () => answer.destroy());
		});
		onward.on('error', () => answer.destroy());
		// Not when it is all there: the connection may be another request's by then.
		answer.on('close', () => {
			if (!answer.writableFinished) onward.destroy();
		});
		asked.pipe(onward);
	});
	server.on('upgrade', (asked, socket, head) => {
		const onward = request(there(asked));
		onward.on('upgrade', (got, far, first) => {
			const lines = [`HTTP/1.1 101 ${got.statusMessage ?? ''}`];
			for (let at = 0; at < got.rawHeaders.length; at += 2)
				lines.push(`${got.rawHeaders[at]}: ${got.rawHeaders[at + 1]}`);
			socket.write(`${lines.join('\r\n')}\r\n\r\n`);
			far.write(head);
			socket.write(first);
			far.pipe(socket).pipe(far);
			far.on('error', () => socket.destroy());
			socket.on('error', () => far.destroy());
		});
		onward.on('response', () => socket.destroy());
		onward.on('error', () => socket.destroy());
		onward.end();
	});
	await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
	return {
		url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
		close: () => {
			server.close();
			server.closeAllConnections();
		}
	};
}

/** Once before all tests. */
export default async function setup(): Promise<(() => void) | undefined> {
	const home = process.env.ATOLL_URL;
	if (!fresh || !home) return undefined;
	const front = await inFrontOf(home);
	process.env.ATOLL_URL = front.url;
	// What is no browser goes to the server itself.
	process.env.ATOLL_BEHIND = home;
	return front.close;
}
