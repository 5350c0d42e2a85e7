// A registry of images on this machine, as much of one as pulling takes. It wants to know who asks.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';

export const USER = 'puller';
export const PASSWORD = 'as said';

/** The smallest root that programs run in: a shell and two tools of this machine, with their libraries. */
const ROOT = `
for program in dash cat id; do
	path=$(command -v $program); mkdir -p bin; cp -L "$path" bin/$program
	for library in $(ldd "$path" | grep -o '/[^ ]*'); do
		mkdir -p ".$(dirname $library)"; cp -nL $library .$library
	done
done
ln -s dash bin/sh
mkdir -p etc root tmp srv; chmod 1777 tmp
echo 'root:x:0:0::/root:/bin/sh' > etc/passwd
echo 'root:x:0:' > etc/group
echo 'from a registry' > srv/proof
tar -c --numeric-owner --owner=0 --group=0 -f - .
`;

const digest = (bytes: Buffer) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

export class Registry {
	/** `127.0.0.1:PORT` */
	host = '';
	#parts = new Map<string, Buffer>();
	#server = createServer((asked, answer) => {
		const path = new URL(asked.url ?? '/', 'http://registry').pathname;
		const who = asked.headers.authorization;
		const send = (status: number, body: Buffer | string = '', headers = {}) => {
			answer.writeHead(status, headers);
			answer.end(body);
		};
		if (path === '/token') {
			const right = `Basic ${Buffer.from(`${USER}:${PASSWORD}`).toString('base64')}`;
			return who === right ? send(200, '{"token":"let-in"}') : send(401);
		}
		if (who !== 'Bearer let-in') {
			const realm = `Bearer realm="http://${this.host}/token",service="tests",scope="pull"`;
			return send(401, '', { 'www-authenticate': realm });
		}
		const found = this.#parts.get(path.split('/').at(-1) ?? '');
		return found ? send(200, found) : send(404);
	});

	async start(): Promise<this> {
		await new Promise<void>((listening) => this.#server.listen(0, '127.0.0.1', listening));
		this.host = `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
		return this;
	}

	/** Puts an image of one layer there. */
	push(tag: string): void {
		const folder = mkdtempSync(join(tmpdir(), 'atoll-image-'));
		const layer = execFileSync('sh', ['-ec', ROOT], { cwd: folder, maxBuffer: 1 << 28 });
		rmSync(folder, { recursive: true, force: true });
		const keep = (bytes: Buffer) => {
			this.#parts.set(digest(bytes), bytes);
			return { digest: digest(bytes), size: bytes.length };
		};
		const config = {
			architecture: process.arch === 'arm64' ? 'arm64' : 'amd64',
			os: 'linux',
			config: { Env: ['PATH=/bin'], WorkingDir: '/srv' },
			rootfs: { type: 'layers', diff_ids: [digest(layer)] }
		};
		const manifest = {
			schemaVersion: 2,
			config: {
				mediaType: 'application/vnd.oci.image.config.v1+json',
				...keep(Buffer.from(JSON.stringify(config)))
			},
			layers: [{ mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', ...keep(gzipSync(layer)) }]
		};
		this.#parts.set(tag, Buffer.from(JSON.stringify(manifest)));
	}

	end(): void {
		this.#server.close();
		this.#server.closeAllConnections();
	}
}
