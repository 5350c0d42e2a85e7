// A template from an image of a private registry: an Atoll of its own, which may ask one on this machine, with a host.
import { afterAll, beforeAll, expect, it } from 'vitest';

import { Agent } from './agent';
import { inspect, logIn, useBrowser, withPage } from './harness';
import { Own } from './own';
import { PASSWORD as SECRET, Registry, USER } from './registry';

useBrowser();

const PASSWORD = 'the first of many';
const own = new Own();
const registry = new Registry();
const agent = new Agent();
let token = '';
let host = '';

interface Host {
	id: string;
	status: string;
}

async function ask<T>(method: string, path: string, body?: unknown): Promise<T> {
	const answer = await fetch(own.behind + path, {
		method,
		headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
		body: body === undefined ? undefined : JSON.stringify(body)
	});
	const text = await answer.text();
	if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
	return (text === '' ? undefined : JSON.parse(text)) as T;
}

beforeAll(async () => {
	await registry.start();
	registry.push('1');
	await own.start({ ATOLL_REGISTRY_ALLOW: registry.host });
	token = await own.setUp('root@example.org', PASSWORD);
	const made = await ask<{ host: Host; registration_token: string }>('POST', '/v1/hosts', {
		name: 'builder'
	});
	host = made.host.id;
	agent.start(`ATOLL_REGISTER=${made.registration_token}`, own.behind);
});
afterAll(async () => {
	const { items } = await ask<{ items: { id: string }[] }>('GET', '/v1/sandboxes');
	await Promise.all(items.map(({ id }) => ask('DELETE', `/v1/sandboxes/${id}`)));
	await agent.remove();
	await own.remove();
	registry.end();
});

it(
	'builds from an image: is refused without a log-in, asks for it in its place, builds, and what it made runs',
	() =>
		withPage(
			async (page) => {
				const status = async () => (await ask<Host>('GET', `/v1/hosts/${host}`)).status;
				await expect.poll(status, { timeout: 120_000 }).toBe('online');
				await page.goto('/login?next=/dashboard/templates');
				await logIn(page, PASSWORD, 'root@example.org');
				await page.getByRole('button', { name: 'New template' }).first().click();
				const dialog = page.getByRole('dialog');
				await dialog.getByRole('textbox', { name: 'Name' }).fill('pulled');
				await dialog.getByLabel('From').click();
				await page.getByRole('option', { name: /^An image/ }).click();
				await dialog.getByLabel('Image').fill(`${registry.host}/team/app:1`);
				await dialog.getByRole('button', { name: 'Build' }).click();
				const said = dialog.getByRole('status');
				await said.getByText('error', { exact: true }).waitFor({ timeout: 60_000 });
				await dialog.getByRole('log').getByText(/401/).first().waitFor();
				await dialog.getByRole('button', { name: 'Change it and build again' }).click();
				await dialog.getByLabel('Registry user').fill(USER);
				await dialog.getByLabel('Registry password or token').fill(SECRET);
				await inspect(page, 'template-image-login');
				await dialog.getByRole('button', { name: 'Build' }).click();
				await said.getByText('ready', { exact: true }).waitFor({ timeout: 120_000 });
				await inspect(page, 'template-image-built');
				await dialog.getByRole('button', { name: 'Start a sandbox' }).click();
				await page.waitForURL(/\/sandboxes\/sb-[a-z0-9]{20}$/);
				await page.getByText('Running').first().waitFor();
				const id = new URL(page.url()).pathname.split('/').at(-1) ?? '';
				const { stdout } = await ask<{ stdout: string }>('POST', `/v1/sandboxes/${id}/exec`, {
					cmd: '/bin/sh',
					args: ['-c', 'pwd; cat proof']
				});
				expect(stdout).toBe('/srv\nfrom a registry\n');
				// The log-in was for that build alone.
				await page.goto('/dashboard/templates');
				await page.getByRole('button', { name: 'New template' }).first().click();
				await dialog.getByText('Log in to the registry').click();
				expect(await dialog.getByLabel('Registry password or token').inputValue()).toBe('');
			},
			{ at: own.url }
		),
	300_000
);
