// What somebody who has just arrived pastes into a terminal to see a program run in a sandbox, in the way they would use it.

export interface Way {
	value: string;
	name: string;
	/** What has to be there. */
	needs: string;
	/** Whether it names an API key. */
	keyed: boolean;
	text: string;
}

/** `key` is what stands for the API key; `origin` is where this Atoll is; with TLS and a domain, the SDKs need no more. */
export function ways(origin: string, key: string, domain: string | null = null): Way[] {
	const e2b = [
		`export E2B_API_KEY=${key}`,
		...(domain && origin.startsWith('https:')
			? [`export E2B_DOMAIN=${domain}`]
			: [`export E2B_API_URL=${origin}/e2b`, `export E2B_SANDBOX_URL=${origin}`])
	];
	return [
		{
			value: 'terminal',
			name: 'Terminal',
			needs: 'On the machine that Atoll runs on:',
			keyed: false,
			text: ["atoll run -- python3 -c 'print(6*7)'", 'atoll sandbox create'].join('\n')
		},
		{
			value: 'python',
			name: 'Python',
			needs: 'With E2B’s own SDK, which works here unchanged.',
			keyed: true,
			text: [
				'pip install e2b',
				...e2b,
				"python3 - <<'END'",
				'from e2b import Sandbox',
				'sandbox = Sandbox.create()',
				'print(sandbox.commands.run("echo $((6 * 7))").stdout)',
				'sandbox.kill()',
				'END'
			].join('\n')
		},
		{
			value: 'javascript',
			name: 'JavaScript',
			needs: 'With E2B’s own SDK, which works here unchanged.',
			keyed: true,
			text: [
				'npm install e2b',
				...e2b,
				"node --input-type=module - <<'END'",
				"import { Sandbox } from 'e2b'",
				'const sandbox = await Sandbox.create()',
				"console.log((await sandbox.commands.run('echo $((6 * 7))')).stdout)",
				'await sandbox.kill()',
				'END'
			].join('\n')
		},
		{
			value: 'curl',
			name: 'curl',
			needs: 'The API that this dashboard uses too. The sandbox stays, and appears here.',
			keyed: true,
			text: [
				`curl -X POST ${origin}/v1/sandboxes \\`,
				`  -H 'X-API-Key: ${key}' \\`,
				"  -H 'Content-Type: application/json' -d '{}'"
			].join('\n')
		}
	];
}
