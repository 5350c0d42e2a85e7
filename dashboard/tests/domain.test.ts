// An Atoll that was given a domain: each port of a sandbox has a name of its own, which the page says.
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, it } from 'vitest';

import { Agent } from './agent';
import { inspect, logIn, useBrowser, withPage } from './harness';
import { Own } from './own';

useBrowser();

const run = promisify(execFile);

const own = new Own();
const agent = new Agent();
let token = '';
beforeAll(async () => {
	// Every name below localhost is this machine.
	await own.start({ ATOLL_DOMAIN: 'sbx.localhost' });
	token = await own.setUp('root@example.org', 'the first of many');
	const { registration_token } = await ask<{ registration_token: string }>('POST', '/v1/hosts', {});
	agent.start(`ATOLL_REGISTER=${registration_token}`, own.behind);
	const status = async () =>
		(await ask<{ items: { status: string }[] }>('GET', '/v1/admin/hosts')).items[0]?.status;
	while ((await status()) !== 'online') await new Promise((passed) => setTimeout(passed, 200));
}, 120_000);
afterAll(async () => {
	const { items } = await ask<{ items: { id: string }[] }>('GET', '/v1/sandboxes');
	await Promise.all(items.map(({ id }) => ask('DELETE', `/v1/sandboxes/${id}`)));
	await agent.remove();
	await own.remove();
});

async function ask<T>(method: string, path: string, body?: unknown): Promise<T> {
	const answer = await fetch(own.behind + path, {
		method,
		headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
		body: body === undefined ? undefined : JSON.stringify(body)
	});
	if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
	const text = await answer.text();
	return (text === '' ? undefined : JSON.parse(text)) as T;
}

it.each([false, true])(
	'gives the command that reaches port 8000 by its name (open to everybody: %s)',
	(everybody) =>
		withPage(
			async (page) => {
				const { id } = await ask<{ id: string }>('POST', '/v1/sandboxes', {
					memory_mb: 256,
					public: everybody
				});
				await ask('POST', `/v1/sandboxes/${id}/exec`, {
					cmd: 'sh',
					args: [
						'-c',
						'mkdir /tmp/www && echo from inside > /tmp/www/index.html && cd /tmp/www && exec python3 -m http.server 8000'
					],
					background: true
				});
				await page.goto(`/login?next=/dashboard/sandboxes/${id}`);
				await logIn(page, 'the first of many', 'root@example.org');
				const command = page.locator('code').filter({ hasText: `8000-i${id.slice(3)}.sbx.localhost` });
				await command.waitFor();
				await inspect(page, everybody ? 'sandbox-domain-public' : 'sandbox-domain');
				const { key } = await ask<{ key: string }>('POST', '/v1/api-keys', { name: 'by name' });
				const text = await command.innerText();
				expect(text.includes('ATOLL_API_KEY')).toBe(!everybody);
				// As it would be pasted.
				const pasted = () =>
					// Not the kind that waits: what is in front of this server runs in this very process.
					run('sh', ['-c', `${text} -sSf`], {
						env: { PATH: process.env.PATH, ATOLL_API_KEY: key },
						timeout: 10_000
					}).then(({ stdout }) => stdout, String);
				await expect.poll(pasted, { timeout: 30_000 }).toBe('from inside\n');
			},
			{ at: own.url }
		),
	120_000
);
