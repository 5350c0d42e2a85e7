import { redirect } from '@sveltejs/kit';
import { session } from '$lib/session.svelte';

/** For platform admins; the API refuses everybody else anyway. */
export async function load({ url }) {
	if (!(await session.restore())) {
		redirect(307, `/login?next=${encodeURIComponent(url.pathname + url.search)}`);
	}
	if (!session.me?.is_admin) redirect(307, '/dashboard/sandboxes');
}
