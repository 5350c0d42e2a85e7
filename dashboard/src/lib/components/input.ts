// How text fields look.
export const INPUT =
	'h-(--control) w-full min-w-0 rounded-md border border-line-strong bg-page px-2.5 text-body text-text transition-colors hover:border-text-3 aria-invalid:border-bad';
export const AREA =
	'min-h-28 w-full min-w-0 rounded-md border border-line-strong bg-page px-2.5 py-2 font-mono text-small text-text transition-colors hover:border-text-3 aria-invalid:border-bad';
