// Times for people: short and relative at a glance, exact when asked.

const UNITS: [limit: number, seconds: number, unit: string][] = [
	[60, 1, 's'],
	[3600, 60, 'm'],
	[86_400, 3600, 'h'],
	[Infinity, 86_400, 'd']
];

/** How long ago, in one unit: `8 s`, `3 m`, `5 h`, `12 d`. Clocks that differ by a little show `now`. */
export function ago(from: string | number | Date, now: number): string {
	const seconds = Math.floor((now - new Date(from).getTime()) / 1000);
	if (Number.isNaN(seconds)) return '–';
	if (seconds < 1) return 'now';
	for (const [limit, size, unit] of UNITS) {
		if (seconds < limit) return `${Math.floor(seconds / size)} ${unit}`;
	}
	return '–';
}

/** A length of time in at most two units: `90` is `1 m 30 s`. */
export function lasting(seconds: number): string {
	const parts: string[] = [];
	let rest = Math.max(0, Math.floor(seconds));
	for (const [, size, unit] of [...UNITS].reverse()) {
		const count = Math.floor(rest / size);
		rest -= count * size;
		if (count > 0) parts.push(`${count} ${unit}`);
	}
	return parts.slice(0, 2).join(' ') || '0 s';
}

// As in logs and charts: 24 hours.
const EXACT = new Intl.DateTimeFormat(undefined, {
	dateStyle: 'medium',
	timeStyle: 'long',
	hourCycle: 'h23'
});

export function exact(time: string | number | Date): string {
	const date = new Date(time);
	return Number.isNaN(date.getTime()) ? '–' : EXACT.format(date);
}
