new EventSource('/api/events').addEventListener('map', (event) => { document.getElementById('map').textContent = event.data; });
