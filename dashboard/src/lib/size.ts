// Sizes for people. The API's megabytes are powers of two.

const UNITS = ['B', 'kB', 'MB', 'GB', 'TB'];

/** `512` is `512 MB`, `1536` is `1.5 GB`. */
export const megabytes = (count: number) => scaled(count, 2);

/** `1536` is `1.5 kB`, `0` is `0 B`. */
export const bytes = (count: number) => scaled(count, 0);

function scaled(count: number, from: number): string {
	let value = count;
	let unit = from;
	while (value >= 1024 && unit < UNITS.length - 1) {
		value /= 1024;
		unit += 1;
	}
	const text = Number.isInteger(value) ? String(value) : value.toFixed(1).replace(/\.0$/, '');
	return `${text} ${UNITS[unit]}`;
}
