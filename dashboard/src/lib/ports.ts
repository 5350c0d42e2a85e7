// Where ports of a sandbox are reached, on a server that was given a domain for them (`--domain`).

/** `8000-i….sbx.example.com`; the name is of one label, without the hyphen of the id. */
const hostOf = (sandbox: string, port: number, domain: string) =>
	`${port}-i${sandbox.slice(sandbox.indexOf('-') + 1)}.${domain}`;

/** The address of a port, reached in the way that this page was. A domain that names a port of its own keeps it. */
export function portAddress(page: URL, domain: string, sandbox: string, port: number): string {
	const at = page.port && !domain.includes(':') ? `:${page.port}` : '';
	return `${page.protocol}//${hostOf(sandbox, port, domain)}${at}/`;
}
