// Which rows of a long list are drawn: those in view and a few around them. Rows have one fixed height.

export interface Window {
	first: number;
	/** One past the last. */
	end: number;
	/** Pixels above and below that stand for the rows that are not drawn. */
	above: number;
	below: number;
}

const AROUND = 8;

export function visible(count: number, row: number, scrolled: number, height: number): Window {
	const first = Math.min(count, Math.max(0, Math.floor(scrolled / row) - AROUND));
	const end = Math.max(first, Math.min(count, Math.ceil((scrolled + height) / row) + AROUND));
	return { first, end, above: first * row, below: (count - end) * row };
}
