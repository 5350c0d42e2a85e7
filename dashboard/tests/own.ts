// An Atoll of a test's own: a control plane without hosts, with settings that the shared one doesn't have.
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

import { program } from './agent';
import { fresh, inFrontOf } from './front';

export class Own {
	readonly data = mkdtempSync(join(tmpdir(), 'atoll-own-'));
	url = '';
	/** The same without what may be in front of it. */
	behind = '';
	/** While nobody has an account. */
	setupToken = '';
	#child: ChildProcess | undefined;
	#front: { close: () => void } | undefined;

	async start(env: Record<string, string> = {}): Promise<this> {
		const child = spawn(program, ['server', '--json', '--listen', '127.0.0.1:0'], {
			env: {
				PATH: process.env.PATH,
				...(process.env.ATOLL_CACHE_DIR ? { ATOLL_CACHE_DIR: process.env.ATOLL_CACHE_DIR } : {}),
				ATOLL_DATA_DIR: this.data,
				...env
			},
			stdio: ['ignore', 'pipe', 'ignore']
		});
		this.#child = child;
		const said = await firstLine(child, (line) => line.startsWith('{'));
		const { url, setup_token } = JSON.parse(said) as { url: string; setup_token: string | null };
		this.behind = url;
		const front = fresh ? await inFrontOf(url) : undefined;
		this.#front = front;
		this.url = front?.url ?? url;
		this.setupToken = setup_token ?? '';
		return this;
	}

	/** Makes the first admin, and answers what programs sign in with. */
	async setUp(email: string, password: string): Promise<string> {
		const answer = await fetch(`${this.url}/v1/auth/setup`, {
			method: 'POST',
			headers: { 'content-type': 'application/json' },
			body: JSON.stringify({ token: this.setupToken, email, password })
		});
		if (!answer.ok) throw new Error(`setting up: ${answer.status} ${await answer.text()}`);
		return ((await answer.json()) as { token: string }).token;
	}

	async remove(): Promise<void> {
		this.#front?.close();
		await end(this.#child);
		rmSync(this.data, { recursive: true, force: true });
	}
}

/** Waits for a line of what a program says. */
export function firstLine(child: ChildProcess, is: (line: string) => boolean): Promise<string> {
	return new Promise((resolve, reject) => {
		if (!child.stdout) return reject(new Error('it says nothing'));
		const lines = createInterface({ input: child.stdout });
		lines.on('line', (line) => {
			if (is(line)) resolve(line);
		});
		child.once('error', reject);
		child.once('exit', (code) => reject(new Error(`it ended with ${code}`)));
	});
}

export async function end(child: ChildProcess | undefined): Promise<void> {
	if (!child || child.exitCode !== null || child.signalCode !== null) return;
	const ended = new Promise((resolve) => child.once('exit', resolve));
	child.kill('SIGTERM');
	await ended;
}
