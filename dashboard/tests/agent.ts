// A second host of the Atoll under test: a real agent beside the one that `atoll up` has inside.
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { server } from './harness';

/** The binary under test. */
export const program =
	process.env.ATOLL_BIN ?? new URL('../../target/release/atoll', import.meta.url).pathname;

export class Agent {
	readonly data = mkdtempSync(join(tmpdir(), 'atoll-agent-'));
	#child: ChildProcess | undefined;

	/** Runs what the dashboard says to run: `ATOLL_REGISTER=TOKEN atoll host --server URL`. `at`: where the server itself is. */
	start(command?: string, at = process.env.ATOLL_BEHIND): void {
		const token = command && /ATOLL_REGISTER=(\S+)/.exec(command)?.[1];
		const said = command && /--server (\S+)/.exec(command)?.[1];
		const url = at ?? said ?? server;
		const log = join(this.data, 'agent.log');
		this.#child = spawn(
			'/bin/sh',
			['-c', `exec "$0" host --server "$1" --listen 127.0.0.1:0 >>"${log}" 2>&1`, program, url],
			{
				env: {
					PATH: process.env.PATH,
					ATOLL_DATA_DIR: this.data,
					...(process.env.ATOLL_CACHE_DIR ? { ATOLL_CACHE_DIR: process.env.ATOLL_CACHE_DIR } : {}),
					...(token ? { ATOLL_REGISTER: token } : {})
				},
				stdio: 'ignore'
			}
		);
	}

	log(): string {
		try {
			return readFileSync(join(this.data, 'agent.log'), 'utf8');
		} catch {
			return '';
		}
	}

	/** SIGSTOP: it falls silent. SIGCONT: it goes on. */
	signal(signal: NodeJS.Signals): void {
		this.#child?.kill(signal);
	}

	/** Ends it in order; its host shows as offline. */
	async stop(): Promise<void> {
		const child = this.#child;
		this.#child = undefined;
		if (!child || child.exitCode !== null || child.signalCode !== null) return;
		const ended = new Promise((resolve) => child.once('exit', resolve));
		// Also when it was stopped in its tracks.
		child.kill('SIGCONT');
		child.kill('SIGTERM');
		await ended;
	}

	/** When its host was deleted it ends by itself. */
	async ended(): Promise<void> {
		const child = this.#child;
		if (!child || child.exitCode !== null) return;
		await new Promise((resolve) => child.once('exit', resolve));
	}

	async remove(): Promise<void> {
		await this.stop();
		rmSync(this.data, { recursive: true, force: true });
	}
}
