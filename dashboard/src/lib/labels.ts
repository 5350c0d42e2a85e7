/** Labels as people type them: `name=value` separated by spaces or commas. A name alone has an empty value. */
export function parseLabels(text: string): Record<string, string> {
	const pairs = text.split(/[\s,]+/).filter(Boolean);
	return Object.fromEntries(
		pairs.map((pair) => {
			const split = pair.indexOf('=');
			return split < 0 ? [pair, ''] : [pair.slice(0, split), pair.slice(split + 1)];
		})
	);
}
