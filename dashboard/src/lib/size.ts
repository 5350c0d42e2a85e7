// Sizes for people. The API's megabytes are powers of two.

const UNITS = ['MB', 'GB', 'TB'];

/** `512` is `512 MB`, `1536` is `1.5 GB`. */
export function megabytes(count: number): string {
	let value = count;
	let unit = 0;
	while (value >= 1024 && unit < UNITS.length - 1) {
		value /= 1024;
		unit += 1;
	}
	const text = Number.isInteger(value) ? String(value) : value.toFixed(1).replace(/\.0$/, '');
	return `${text} ${UNITS[unit]}`;
}
