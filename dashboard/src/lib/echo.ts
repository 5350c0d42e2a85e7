// Tells what somebody else has set from what comes back of what was told: a field tells the address what was typed, and
// the address tells the field what it holds, always a little later.
const REMEMBERED_MS = 3000;

export class Echo {
	#told: { text: string; at: number }[] = [];

	constructor(private last: string) {}

	/** This was told, and will come back. */
	told(text: string): void {
		this.#told.push({ text: text.trim(), at: Date.now() });
	}

	/** Whether what has come is from elsewhere. What was told before an answer has been overtaken by it. */
	isNews(text: string): boolean {
		if (text === this.last) return false;
		this.last = text;
		this.#told = this.#told.filter(({ at }) => Date.now() - at < REMEMBERED_MS);
		const known = this.#told.findIndex((one) => one.text === text.trim());
		if (known < 0) return true;
		this.#told.splice(0, known + 1);
		return false;
	}
}
