// Webhooks from the page to a server that listens, and back into the log of what was sent.
import { createHmac } from 'node:crypto';
import { createServer, type IncomingHttpHeaders } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, expect, it } from 'vitest';

import { inspect, logIn, useBrowser, withPage } from './harness';
import { Own } from './own';

useBrowser();

const own = new Own();
const received: { headers: IncomingHttpHeaders; body: string }[] = [];
let status = 200;
const listener = createServer((request, answer) => {
	let body = '';
	request.on('data', (part: Buffer) => (body += part.toString()));
	request.on('end', () => {
		received.push({ headers: request.headers, body });
		answer.writeHead(status).end();
	});
});
let hook = '';
let token = '';
beforeAll(async () => {
	await new Promise<void>((listening) => listener.listen(0, '127.0.0.1', listening));
	hook = `http://127.0.0.1:${(listener.address() as AddressInfo).port}/atoll`;
	await own.start({ ATOLL_WEBHOOK_ALLOW: '127.0.0.0/8' });
	token = await own.setUp('root@example.org', 'the first of many');
});
afterAll(async () => {
	await own.remove();
	listener.close();
});

const event = (type: string) =>
	received.find(({ body }) => (JSON.parse(body) as { type: string }).type === type);

it('makes a webhook, which gets signed events; shows what was sent, tests it, switches it off, and deletes it', () =>
	withPage(
		async (page) => {
			await page.goto('/login?next=/dashboard/webhooks');
			await logIn(page, 'the first of many', 'root@example.org');
			await page.getByRole('heading', { name: 'No webhooks' }).waitFor();
			await inspect(page, 'webhooks-empty');
			await page.getByRole('button', { name: 'New webhook' }).first().click();
			const dialog = page.getByRole('dialog');
			await dialog.getByLabel('Address').fill('https://10.0.0.1/private');
			await dialog.getByRole('button', { name: 'Make it' }).click();
			await dialog.locator('[aria-invalid=true]').waitFor();
			await inspect(page, 'webhook-refused');
			await dialog.getByLabel('Address').fill(hook);
			await dialog.getByLabel('api key').check();
			await dialog.getByRole('button', { name: 'Make it' }).click();
			const secret = await dialog.getByLabel('Secret').inputValue();
			await inspect(page, 'webhook-new');
			await dialog.getByRole('button', { name: 'Done' }).click();

			const made = await fetch(`${own.url}/v1/api-keys`, {
				method: 'POST',
				headers: { 'content-type': 'application/json', authorization: `Bearer ${token}` },
				body: JSON.stringify({ name: 'told about' })
			});
			expect(made.status).toBe(201);
			await expect.poll(() => event('api_key.created')?.body).toContain('told about');
			const { headers, body } = event('api_key.created') ?? { headers: {}, body: '' };
			const signed = createHmac('sha256', secret)
				.update(`${String(headers['atoll-webhook-timestamp'])}.${body}`)
				.digest('hex');
			expect(headers['atoll-webhook-signature']).toBe(`v1=${signed}`);

			const row = page.locator('[data-row]').filter({ hasText: hook });
			await row.getByRole('button', { name: /Actions for/ }).click();
			await page.getByRole('menuitem', { name: 'Send a test' }).click();
			await page.getByText(/It answered 200/).waitFor();
			status = 503;
			await row.getByRole('button', { name: /Actions for/ }).click();
			await page.getByRole('menuitem', { name: 'Send a test' }).click();
			await page.getByText(/The test did not arrive/).waitFor();
			await row.getByRole('button', { name: /Actions for/ }).click();
			await page.getByRole('menuitem', { name: 'Deliveries' }).click();
			await dialog.getByText('delivered', { exact: true }).first().waitFor();
			await dialog.getByText('failed', { exact: true }).first().waitFor();
			await dialog.getByText('api_key.created').waitFor();
			await inspect(page, 'webhook-deliveries');
			await dialog.getByRole('button', { name: 'Close' }).last().click();

			// Another secret: from now on both sign, so that the server can change over.
			await row.getByRole('button', { name: /Actions for/ }).click();
			await page.getByRole('menuitem', { name: /New secret/ }).click();
			await dialog.getByText(/goes on for 24 hours/).waitFor();
			await inspect(page, 'webhook-secret');
			await dialog.getByRole('button', { name: 'Make a new secret' }).click();
			const next = await dialog.getByLabel('Signing secret').inputValue();
			expect(next).not.toBe(secret);
			await inspect(page, 'webhook-secret-new');
			await dialog.getByRole('button', { name: 'Done' }).click();
			expect(await page.content()).not.toContain(next);
			status = 200;
			const before = received.length;
			await row.getByRole('button', { name: /Actions for/ }).click();
			await page.getByRole('menuitem', { name: 'Send a test' }).click();
			await expect.poll(() => received.length).toBeGreaterThan(before);
			const last = received.at(-1);
			const by = (which: string) =>
				createHmac('sha256', which)
					.update(`${String(last?.headers['atoll-webhook-timestamp'])}.${last?.body}`)
					.digest('hex');
			expect(String(last?.headers['atoll-webhook-signature']).split(',').toSorted()).toEqual(
				[`v1=${by(next)}`, `v1=${by(secret)}`].toSorted()
			);

			// It is shown as off before the server has agreed.
			const agreed = page.waitForResponse((answer) => answer.request().method() === 'PATCH');
			await row.getByRole('switch').click();
			await row.getByText('off', { exact: true }).filter({ visible: true }).waitFor();
			expect((await agreed).ok()).toBe(true);
			await page.reload();
			await row.getByText('off', { exact: true }).filter({ visible: true }).waitFor();
			await inspect(page, 'webhooks');
			await row.getByRole('button', { name: /Actions for/ }).click();
			await page.getByRole('menuitem', { name: 'Delete' }).click();
			await page.getByRole('button', { name: 'Delete webhook' }).click();
			await page.getByRole('heading', { name: 'No webhooks' }).waitFor();
		},
		{ at: own.url, expected: /40[01]/ }
	));
