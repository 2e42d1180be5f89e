(() => {
  const every = 30000, key = 'cvdmirror-refresh', box = document.getElementById('refresh');
  const stored = (value) => {
    try { return value === undefined ? sessionStorage.getItem(key) : sessionStorage.setItem(key, value) } catch { return null }
  };
  box.closest('label').hidden = false;
  box.checked = stored() === 'on';
  box.addEventListener('change', () => stored(box.checked ? 'on' : 'off'));
  const busy = () => !box.checked || document.hidden || String(getSelection()) !== '' ||
    document.querySelector('details[open]') || ![document.body, box].includes(document.activeElement);
  setInterval(() => { if (!busy()) location.reload() }, every);
})()
