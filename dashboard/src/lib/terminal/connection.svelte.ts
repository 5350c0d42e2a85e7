// A terminal in a sandbox over one WebSocket: bytes as binary frames, control as JSON text frames. It comes back by
// itself to the same shell after a lost connection, because it names the shell by a tag.
import { fill, SOCKET_PROTOCOL } from '$api/client';
import type { Route } from '$api/client';
import { randomKey } from '$lib/random';

export type Phase = 'connecting' | 'open' | 'lost' | 'ended' | 'refused';

interface Handlers {
	output: (bytes: Uint8Array) => void;
	size: () => { cols: number; rows: number };
}

const PTY: Route = 'GET /v1/sandboxes/{id}/pty';
const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 8000;

export class Connection {
	phase = $state<Phase>('connecting');
	exitCode = $state<number | null>(null);
	problem = $state<string | null>(null);

	#socket: WebSocket | undefined;
	#timer: ReturnType<typeof setTimeout> | undefined;
	#wait = FIRST_WAIT_MS;
	#closed = false;
	#everOpen = false;
	readonly #tag = `dashboard-${randomKey().slice(0, 12)}`;

	constructor(
		private readonly id: string,
		private readonly handlers: Handlers
	) {
		this.#connect();
	}

	send(text: string): void {
		if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(new TextEncoder().encode(text));
	}

	resize(): void {
		this.#control({ type: 'resize', ...this.handlers.size() });
	}

	/** Tries again now. */
	retry(): void {
		clearTimeout(this.#timer);
		this.#connect();
	}

	/** Ends the shell and the connection. */
	close(): void {
		this.#closed = true;
		clearTimeout(this.#timer);
		this.#control({ type: 'signal', signal: 'SIGHUP' });
		this.#control({ type: 'stop' });
		this.#socket?.close();
	}

	#control(frame: object): void {
		if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(frame));
	}

	#connect(): void {
		this.phase = 'connecting';
		const origin = location.origin.replace(/^http/, 'ws');
		const address = `${origin}${fill(PTY.slice(4), { id: this.id })}?tag=${this.#tag}`;
		const socket = new WebSocket(address, SOCKET_PROTOCOL);
		this.#socket = socket;
		socket.binaryType = 'arraybuffer';
		socket.addEventListener('open', () => {
			this.#wait = FIRST_WAIT_MS;
			this.#control({ type: 'start', tag: this.#tag, ...this.handlers.size() });
		});
		socket.addEventListener('message', ({ data }: MessageEvent<ArrayBuffer | string>) => {
			if (typeof data === 'string') this.#received(data);
			else this.handlers.output(new Uint8Array(data));
		});
		socket.addEventListener('close', () => {
			if (this.#closed || this.phase === 'ended' || this.phase === 'refused') return;
			this.phase = 'lost';
			this.#timer = setTimeout(() => this.#connect(), this.#wait);
			this.#wait = Math.min(this.#wait * 2, LONGEST_WAIT_MS);
		});
	}

	#received(text: string): void {
		const frame = JSON.parse(text) as { type: string; exit_code?: number; message?: string };
		if (frame.type === 'start') {
			this.phase = 'open';
			this.#everOpen = true;
		} else if (frame.type === 'exit') {
			this.phase = 'ended';
			this.exitCode = frame.exit_code ?? null;
		} else if (frame.type === 'error') {
			this.phase = this.#everOpen ? 'ended' : 'refused';
			this.problem = frame.message ?? 'The terminal could not be opened.';
		}
	}
}
