// How text fields and selects look.
export const INPUT =
	'h-(--control) w-full min-w-0 rounded-md border border-line-strong bg-page px-2.5 text-body text-text transition-colors hover:border-text-3 aria-invalid:border-bad';
