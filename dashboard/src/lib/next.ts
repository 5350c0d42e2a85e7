/** Where to go after logging in: only ever a page of ours. */
export function nextPage(query: URLSearchParams): string {
	const wanted = query.get('next') ?? '';
	return /^\/(dashboard|admin|device)(\/|\?|$)/.test(wanted) ? wanted : '/dashboard/sandboxes';
}
