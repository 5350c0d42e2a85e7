import { error } from '@sveltejs/kit';
import { dev } from '$app/environment';

/** In development builds alone. */
export function load() {
	if (!dev) error(404, 'Not found');
}
