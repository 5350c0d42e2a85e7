// Short notes in a corner: what was done, or why not. Errors stay until they are read.
export interface Toast {
	id: number;
	tone: 'good' | 'bad';
	text: string;
}

const SHOWN_MS = 4000;
const AT_MOST = 4;

class Toasts {
	list = $state<Toast[]>([]);
	#next = 1;

	good(text: string): void {
		const id = this.#add('good', text);
		setTimeout(() => this.dismiss(id), SHOWN_MS);
	}

	bad(text: string): void {
		this.#add('bad', text);
	}

	dismiss(id: number): void {
		this.list = this.list.filter((toast) => toast.id !== id);
	}

	#add(tone: Toast['tone'], text: string): number {
		const id = this.#next++;
		this.list = [...this.list, { id, tone, text }].slice(-AT_MOST);
		return id;
	}
}

export const toasts = new Toasts();
