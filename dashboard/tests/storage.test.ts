import { afterEach, expect, it } from 'vitest';

import { api, enter, failUntilPressed, inspect, useBrowser, withPage } from './harness';

useBrowser();

afterEach(async () => {
	for (const kind of ['sandboxes', 'volumes', 'secrets']) {
		const { items } = await api<{ items: { id: string }[] }>('GET', `/v1/${kind}`);
		await Promise.all(items.map(({ id }) => api('DELETE', `/v1/${kind}/${id}`)));
	}
});

it('makes a volume, shows who has it mounted, and deletes it when nobody has', () =>
	withPage(
		async (page) => {
			await enter(page, '/dashboard/volumes');
			await page.getByRole('heading', { name: 'No volumes yet' }).waitFor();
			await inspect(page, 'volumes-empty');
			await page.keyboard.press('c');
			const dialog = page.getByRole('dialog');
			await dialog.getByLabel('Name').fill('Not A Name');
			await dialog.getByRole('button', { name: 'Make the volume' }).click();
			await dialog.locator('[aria-invalid=true]').waitFor();
			await dialog.getByLabel('Name').fill('models');
			await dialog.getByLabel('Size, MB').fill('64');
			await inspect(page, 'volume-new');
			await dialog.getByRole('button', { name: 'Make the volume' }).click();
			const row = page.locator('[data-row]').filter({ hasText: 'models' });
			await row.getByText('64 MB').waitFor();
			await row.getByText('nobody').waitFor();
			const { id } = await api<{ id: string }>('POST', '/v1/sandboxes', {
				memory_mb: 128,
				volumes: [{ volume: 'models', path: '/mnt/models' }]
			});
			await row.getByText(id.slice(0, 11)).waitFor();
			await inspect(page, 'volumes');
			// The sandbox says so itself, without a question about all volumes.
			const asked: string[] = [];
			page.on('request', (request) => asked.push(new URL(request.url()).pathname));
			await row.getByRole('link', { name: id.slice(0, 11) }).click();
			await page.getByRole('link', { name: 'models', exact: true }).waitFor();
			await page.getByText('/mnt/models', { exact: true }).waitFor();
			await inspect(page, 'sandbox-volumes');
			expect(asked).toContain(`/v1/sandboxes/${id}/events`);
			expect(asked.filter((path) => path.startsWith('/v1/volumes'))).toEqual([]);
			await page.goBack();
			await row.getByRole('button', { name: /Actions for/ }).click();
			expect(await page.getByRole('menuitem', { name: /Delete/ }).getAttribute('aria-disabled')).toBe('true');
			await page.keyboard.press('Escape');
			await api('DELETE', `/v1/sandboxes/${id}`);
			await row.getByText('nobody').waitFor();
			await row.getByRole('button', { name: /Actions for/ }).click();
			await page.getByRole('menuitem', { name: 'Delete' }).click();
			await page.getByLabel('Type models to go on').fill('models');
			await page.getByRole('button', { name: 'Delete volume' }).click();
			await page.getByRole('heading', { name: 'No volumes yet' }).waitFor();
		},
		{ expected: /400/ }
	));

it('keeps a secret that is never shown again, gives it another value, and deletes it', () =>
	withPage(async (page) => {
		await enter(page, '/dashboard/secrets');
		await page.getByRole('heading', { name: 'No secrets yet' }).waitFor();
		await inspect(page, 'secrets-empty');
		await page.getByRole('button', { name: 'New secret' }).first().click();
		const dialog = page.getByRole('dialog');
		await dialog.getByLabel('Name').fill('api-token');
		await dialog.getByLabel('Value').fill('hush, the first');
		await inspect(page, 'secret-new');
		await dialog.getByRole('button', { name: 'Keep it' }).click();
		const row = page.locator('[data-row]').filter({ hasText: 'api-token' });
		await row.waitFor();
		expect(await page.content()).not.toContain('hush');
		await row.getByRole('button', { name: /Actions for/ }).click();
		await page.getByRole('menuitem', { name: 'Another value' }).click();
		expect(await dialog.getByLabel('Value').inputValue()).toBe('');
		await dialog.getByLabel('Value').fill('hush, the second');
		await dialog.getByRole('button', { name: 'Replace it' }).click();
		await page.getByText('api-token has another value').waitFor();
		// A new sandbox gets it, from the dialog.
		await page.goto('/dashboard/sandboxes?new');
		await dialog.getByText(/^Isolation, network/).click();
		await dialog.getByRole('button', { name: 'api-token' }).click();
		expect(await dialog.getByLabel('Secrets', { exact: true }).inputValue()).toBe('API_TOKEN=api-token');
		await dialog.getByLabel('Secrets', { exact: true }).fill('TOKEN=api-token');
		await inspect(page, 'create-all');
		await dialog.getByRole('button', { name: 'Create sandbox' }).click();
		await page.waitForURL(/\/sandboxes\/sb-[a-z0-9]{20}$/);
		const id = new URL(page.url()).pathname.split('/').at(-1) ?? '';
		const { stdout } = await api<{ stdout: string }>('POST', `/v1/sandboxes/${id}/exec`, {
			cmd: 'printenv',
			args: ['TOKEN']
		});
		expect(stdout).toBe('hush, the second\n');
		await page.goto('/dashboard/secrets');
		await row.waitFor();
		await inspect(page, 'secrets');
		await row.getByRole('button', { name: /Actions for/ }).click();
		await page.getByRole('menuitem', { name: 'Delete' }).click();
		await page.getByRole('button', { name: 'Delete secret' }).click();
		await page.getByRole('heading', { name: 'No secrets yet' }).waitFor();
	}));

it.each([
	['volumes', 'No volumes yet'],
	['secrets', 'No secrets yet']
])('says that %s can’t be read, and reads them when asked again', (kind, heading) =>
	withPage(
		async (page) => {
			await failUntilPressed(page, new RegExp(`/v1/${kind}\\b`), 'not now');
			await enter(page, `/dashboard/${kind}`);
			await page.getByRole('alert').waitFor();
			await inspect(page, `${kind}-problem`);
			await page.getByRole('button', { name: 'Try again' }).click();
			await page.getByRole('heading', { name: heading }).waitFor();
			expect(await page.getByRole('alert').count()).toBe(0);
		},
		{ expected: /503/ }
	)
);

it('says at the field what a volume and a secret may not be', () =>
	withPage(
		async (page) => {
			await enter(page, '/dashboard/secrets');
			await page.getByRole('button', { name: 'New secret' }).first().click();
			const dialog = page.getByRole('dialog');
			await dialog.getByLabel('Name').fill('two words');
			await dialog.getByLabel('Value').fill('hush');
			await dialog.getByRole('button', { name: 'Keep it' }).click();
			await dialog.locator('[aria-invalid=true]').waitFor();
			// What was typed is still there.
			expect(await dialog.getByLabel('Value').inputValue()).toBe('hush');
			await page.goto('/dashboard/volumes');
			await page.getByRole('button', { name: 'New volume' }).first().click();
			await dialog.getByLabel('Name').fill('models');
			await dialog.getByLabel('Size, MB').fill('99999999');
			await dialog.getByRole('button', { name: 'Make the volume' }).click();
			await dialog.locator('[aria-invalid=true]').waitFor();
			await inspect(page, 'volume-refused');
		},
		{ expected: /400/ }
	));
