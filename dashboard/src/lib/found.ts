/** Every word of a search must be somewhere in these texts. */
export function found(search: string, ...texts: (string | null | undefined)[]): boolean {
	const all = texts.join('\n').toLowerCase();
	return search
		.toLowerCase()
		.split(/\s+/)
		.every((word) => all.includes(word));
}
