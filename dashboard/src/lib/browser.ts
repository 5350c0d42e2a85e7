/** What a user agent is, in words: `Firefox on Linux`, `curl`. */
export function browserName(agent: string | null): string {
	if (!agent) return 'Something that doesn’t say what it is';
	const find = (names: [pattern: RegExp, name: string][]) =>
		names.find(([pattern]) => pattern.test(agent))?.[1];
	const browser = find([
		[/Edg\//, 'Edge'],
		[/OPR\//, 'Opera'],
		[/Firefox\//, 'Firefox'],
		[/Chrome\//, 'Chrome'],
		[/Version\/.*Safari\//, 'Safari']
	]);
	const system = find([
		[/Android/, 'Android'],
		[/iPhone|iPad/, 'iOS'],
		[/Mac OS X/, 'macOS'],
		[/Windows/, 'Windows'],
		[/Linux/, 'Linux']
	]);
	if (browser) return system ? `${browser} on ${system}` : browser;
	return /^[\w.-]+/.exec(agent)?.[0] ?? agent;
}
