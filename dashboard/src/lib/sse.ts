// Server-sent events read from a fetch: unlike EventSource it hears every event's name, sees the status of the answer
// and stops when it is told to.

export interface Sent {
	event: string;
	data: string;
	id: string | null;
}

/** Cuts a stream of text into events. */
export class Parser {
	#rest = '';
	#event = '';
	#data: string[] = [];
	#id: string | null = null;

	/** The events that are complete with this piece of text. */
	push(text: string): Sent[] {
		const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
		this.#rest = lines.pop() ?? '';
		const sent: Sent[] = [];
		for (const line of lines) {
			if (line === '') {
				if (this.#data.length > 0) {
					sent.push({ event: this.#event || 'message', data: this.#data.join('\n'), id: this.#id });
				}
				this.#event = '';
				this.#data = [];
				continue;
			}
			if (line.startsWith(':')) continue;
			const colon = line.indexOf(':');
			const field = colon < 0 ? line : line.slice(0, colon);
			const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
			if (field === 'event') this.#event = value;
			else if (field === 'data') this.#data.push(value);
			else if (field === 'id') this.#id = value;
		}
		return sent;
	}
}

/** Reads a body to its end, event by event. */
export async function readEvents(
	body: ReadableStream<Uint8Array>,
	each: (sent: Sent) => void
): Promise<void> {
	const parser = new Parser();
	const decoder = new TextDecoder();
	const reader = body.getReader();
	for (;;) {
		const { done, value } = await reader.read();
		if (done) return;
		for (const sent of parser.push(decoder.decode(value, { stream: true }))) each(sent);
	}
}
