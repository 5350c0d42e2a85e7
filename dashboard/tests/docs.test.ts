// The documentation of the API at /docs: a page of others, that reads what this server says of itself.
import { expect, it } from 'vitest';

import { browser, server, useBrowser } from './harness';

useBrowser();

it('shows every route of this server, and runs one', async () => {
	const context = await browser.newContext({ baseURL: server });
	const page = await context.newPage();
	const complaints: string[] = [];
	page.on('pageerror', (error) => complaints.push(String(error)));
	page.on('request', (request) => {
		const { origin, protocol } = new URL(request.url());
		if (origin !== server && protocol.startsWith('http'))
			complaints.push(`asked another origin: ${request.url()}`);
	});
	try {
		const read = page.waitForResponse((response) => new URL(response.url()).pathname === '/openapi.json');
		await page.goto('/docs');
		const api = (await (await read).json()) as { paths: Record<string, Record<string, unknown>> };
		const routes = Object.values(api.paths).flatMap((path) => Object.keys(path)).length;
		expect(routes).toBeGreaterThan(100);
		const shown = page.locator('.opblock');
		await expect.poll(() => shown.count()).toBe(routes);
		const health = page.locator('.opblock', { has: page.locator('[data-path="/healthz"]') });
		await health.locator('.opblock-summary').click();
		await health.getByRole('button', { name: 'Try it out' }).click();
		await health.getByRole('button', { name: 'Execute' }).click();
		await health.locator('.live-responses-table').getByText('"status": "ok"').waitFor();
		expect(complaints).toEqual([]);
	} finally {
		await context.close();
	}
});
